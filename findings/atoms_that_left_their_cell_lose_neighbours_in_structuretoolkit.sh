#!/usr/bin/env bash
# structuretoolkit 0.1.0 looks for neighbours beside the cell only as far as the cutoff reaches.
#
# Expected: get_neighbors() gives every atom of a copper crystal twelve neighbours within 3
# angstrom, also after all atoms moved together, which changes nothing, or after one crossed a
# border, as atoms in a trajectory do; or it says that the atoms have to be wrapped first.
# Seen: images are made of the atoms as they lie, and kept if they are within the cutoff of the
# cell. A crystal moved by 6 angstrom has atoms with three and eight neighbours inside of it, as if
# it had surfaces; one moved further has none at all. A left-handed cell, with its atoms inside,
# loses neighbours, too: its widths are negative. No message in any of these.
#
# mtlpar finds the same neighbours wherever the atoms lie and whichever hand the cell has.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet structuretoolkit==0.1.0 ase==3.29.0
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from ase.build import bulk
from ase.neighborlist import neighbor_list
from structuretoolkit import get_neighbors


def neighbours(atoms):
    """Count the atoms that have 0, 1, 2, ... neighbours; ASE gives each of them twelve."""
    per_atom = np.bincount(neighbor_list("i", atoms, 3.0), minlength=len(atoms))
    assert (per_atom == 12).all()
    found = get_neighbors(atoms, num_neighbors=None, cutoff_radius=3.0)
    return np.bincount(found.numbers_of_neighbors)


crystal = bulk("Cu", cubic=True) * 3
moved, far, left_handed = crystal.copy(), crystal.copy(), crystal.copy()
moved.positions += [6, 0, 0]
far.positions += [30, 0, 0]
left_handed.set_cell(crystal.cell.array[[1, 0, 2]])
print("in the cell", neighbours(crystal), "moved", neighbours(moved), "far", neighbours(far))
print("left-handed", neighbours(left_handed))
assert neighbours(crystal)[12] == len(crystal)
assert neighbours(moved)[3] > 0 and neighbours(moved)[8] > 0
assert neighbours(far)[0] == len(crystal)
assert neighbours(left_handed)[0] > 0
moved.wrap()
assert neighbours(moved)[12] == len(crystal)
PYTHON
