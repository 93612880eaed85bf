#!/usr/bin/env bash
# nvalchemi-toolkit 0.3.0 with ASE 3.29.0: dynamics of a structure with velocities begins at rest.
#
# Expected: AtomicData.from_atoms keeps atoms.get_velocities(), for it has the field, takes what "is
# present in the input object", and both count time in Å (u/eV)^(1/2).
# Seen: velocities are zero, without a message. NVE of a crystal at 300 K starts at 0 K, and what
# was equilibrated elsewhere, or read from a restart, is lost. The multiplicity in
# atoms.info["spin"] does not reach the field of that name either, while the charge beside it does.
#
# mtlpar's batches for the toolkit have both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 nvalchemi-toolkit==0.3.0 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings

warnings.simplefilter("ignore")
import numpy as np
from ase.build import bulk
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from nvalchemi.data import AtomicData

crystal = bulk("Cu", cubic=True).repeat(3)
MaxwellBoltzmannDistribution(crystal, temperature_K=300, rng=np.random.default_rng(0))
crystal.info.update(charge=1, spin=2)
data = AtomicData.from_atoms(crystal)
print("ASE:", round(crystal.get_temperature()), "K; velocities here:", data.velocities.unique())
print("charge:", data.charge, "spin:", data.spin)
assert crystal.get_temperature() > 200
assert not data.velocities.any()
assert data.charge.item() == 1 and data.spin is None
PYTHON
