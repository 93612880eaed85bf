#!/usr/bin/env bash
# mdtraj 1.11.1.post2: vectors of a cell, set and read back, are others; positions stay.
#
# Expected: trajectory.unitcell_vectors = v either keeps the vectors, refuses a cell that does not
# begin along x, or turns the positions with it. The usual cell of copper in ASE 3.29.0, with
# vectors (0 b b), (b 0 b) and (b b 0), would be one to refuse.
# Seen: only lengths and angles are kept, and vectors made of them anew: (10.2 0 0) comes back where
# (0 7.2 7.2) was set. Positions are as they were, so images lie in other directions than the
# crystal's: atoms of a perfect crystal come within 0.62 angstrom of each other instead of 2.55. With
# the cell and positions turned together (cell.standard_form) all distances are right.
#
# mtlpar keeps vectors and positions as they are; its LAMMPS engine turns both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mdtraj==1.11.1.post2 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import mdtraj
import numpy as np
from ase.build import bulk

copper = bulk("Cu") * (4, 4, 4)
pairs = np.stack(np.triu_indices(len(copper), 1), axis=1)
topology = mdtraj.Topology()
residue = topology.add_residue("CU", topology.add_chain())
for _ in copper:
    topology.add_atom("Cu", mdtraj.element.copper, residue)


def nearest(cell, positions):
    trajectory = mdtraj.Trajectory(positions / 10, topology)
    trajectory.unitcell_vectors = cell[None] / 10
    changed = abs(10 * trajectory.unitcell_vectors[0] - cell).max()
    assert np.allclose(trajectory.xyz[0], positions / 10, atol=1e-6)
    return changed, 10 * mdtraj.compute_distances(trajectory, pairs).min()


cell, rotation = copper.cell.standard_form()
as_it_is = nearest(copper.cell.array, copper.positions)
turned = nearest(cell.array, copper.positions @ rotation.T)
print("change of the cell's vectors, nearest atoms (angstrom):", as_it_is, "turned:", turned)
assert as_it_is[0] > 5 and as_it_is[1] < 0.7
assert turned[0] < 1e-4 and abs(turned[1] - 3.61 / 2**0.5) < 1e-3
PYTHON
