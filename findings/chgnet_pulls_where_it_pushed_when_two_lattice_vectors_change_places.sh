#!/usr/bin/env bash
# chgnet 0.4.2: the stress has the other sign if the lattice vectors are left-handed.
#
# Expected: the same crystal with its first two lattice vectors exchanged has the same energy,
# forces and stress, as with ASE's own calculators, and as the energy and forces do here.
# Seen: the volume that the stress is divided by is the determinant with its sign. A left-handed
# cell, which is as valid as any and common in databases, pulls where it pushed. A relaxation of the
# cell then runs away from the minimum that it looks for.
#
# mtlpar divides by the absolute volume.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 chgnet==0.4.2 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings

warnings.simplefilter("ignore")
import numpy as np
from ase.build import bulk
from chgnet.model import CHGNet, CHGNetCalculator

model = CHGNet.load(use_device="cpu", verbose=False)
crystal = bulk("NaCl", "rocksalt", a=5.5, cubic=True)
crystal.rattle(0.05, seed=1)
exchanged = crystal.copy()
exchanged.set_cell(crystal.cell.array[[1, 0, 2]])
results = []
for atoms in (crystal, exchanged):
    atoms.calc = CHGNetCalculator(model, use_device="cpu")
    results.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
(energy, forces, stress), (energy_exchanged, forces_exchanged, stress_exchanged) = results
print("energies", energy, energy_exchanged)
print("stress", stress[:3].tolist(), "exchanged", stress_exchanged[:3].tolist())
assert np.isclose(energy, energy_exchanged)
assert np.allclose(forces, forces_exchanged, atol=1e-4)
assert np.allclose(stress, -stress_exchanged, atol=1e-5) and abs(stress[0]) > 0.01
PYTHON
