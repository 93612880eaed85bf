#!/usr/bin/env bash
# torch-sim-atomistic 0.3.0, the newest that Python 3.11 takes, doubles the forces of its pair
# models.
#
# Expected: the forces of LennardJonesModel and MorseModel are the derivative of their energies, as
# users take these models to test a workflow before a learned potential is at hand.
# Seen: two argon atoms feel exactly twice the force that the energy has as its slope. Each pair
# stands in the neighbour list in both directions, which the energy allows for with a factor of one
# half and the forces and the stress do not. SoftSphereModel has that, too, and a stress of the
# wrong sign. A run at constant energy shows no drift, as the doubled potential is conserved, so
# nothing looks wrong. The models of version 0.6.2, for Python 3.12, were written anew.
#
# mtlpar compares energy with work along the frames of a run: such forces have a slope of one half.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 torch-sim-atomistic==0.3.0 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import torch
from ase import Atoms
from torch_sim.io import atoms_to_state
from torch_sim.models.lennard_jones import LennardJonesModel
from torch_sim.models.morse import MorseModel

options = {"dtype": torch.float64, "compute_forces": True, "cutoff": 6.0, "sigma": 2.5}


def outcome(model, distance):
    pair = Atoms("Ar2", [[0, 0, 0], [0, 0, distance]], cell=[20, 20, 20], pbc=True)
    found = model(atoms_to_state([pair], torch.device("cpu"), torch.float64))
    return float(found["energy"][0]), float(found["forces"][1, 2])


ratios = {}
for model in (LennardJonesModel(epsilon=0.1, **options), MorseModel(epsilon=0.1, **options)):
    step = 1e-5
    slope = (outcome(model, 2.6 + step)[0] - outcome(model, 2.6 - step)[0]) / (2 * step)
    ratios[type(model).__name__] = outcome(model, 2.6)[1] / -slope
print("force over slope of the energy:", ratios)
assert all(abs(ratio - 2) < 1e-6 for ratio in ratios.values())
PYTHON
