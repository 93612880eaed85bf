#!/usr/bin/env bash
# torch-geometric 2.8.1 rounds energies that ASE 3.29.0 read from a trajectory, not those from a
# text.
#
# Expected: Data(energy=atoms.get_potential_energy()) keeps the number, or rounds it always, as
# torch does with its default type.
# Seen: it depends on who made the number. Trajectories and databases give a Python float, of which
# a batch makes float32; extended XYZ gives a NumPy float64, and the batch is float64. A total
# energy of -123456.785 eV, as codes with all electrons give it, is off by 4 meV in the one and
# exact in the other, after the same write() of the same atoms. One structure alone keeps its number
# in both.
#
# mtlpar keeps energies in float64 until references are subtracted.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 torch-geometric==2.8.1 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from torch_geometric.data import Batch, Data

energy = -123456.785
atoms = Atoms("Au")
atoms.calc = SinglePointCalculator(atoms, energy=energy)
errors = {}
for name in ("gold.traj", "gold.xyz"):
    write(name, atoms)
    found = read(name).get_potential_energy()
    assert found == energy
    pair = [Data(x=torch.zeros(1, 1), energy=found) for _ in range(2)]
    batched = Batch.from_data_list(pair).energy
    errors[name] = abs(float(batched[0]) - energy)
    print(name, type(found).__name__, "becomes", batched.dtype, f"off by {errors[name]:.4f} eV")
assert errors["gold.traj"] > 1e-3 and errors["gold.xyz"] == 0
PYTHON
