#!/usr/bin/env bash
# dftd3 1.7.0 (s-dftd3) puts atoms back into the cell also along a direction that does not repeat.
#
# Expected: a layer with pbc T T F has one dispersion energy, wherever along its normal it lies: the
# package knows which directions repeat, and gives T T F, T F F and F F F energies of their own.
# Seen: with one of two atoms at z = -1 that atom is taken to z = 19 of a cell of 20 angstrom, where
# no image of it belongs. The energy loses a third, and the attraction across the layer a factor of
# a thousand. With pbc T T T, where images are real, the same shift changes nothing. ase.build puts
# slabs at z = 0 unless told otherwise, so the first step of a relaxation may tear them.
#
# mtlpar never moves an atom along a direction that does not repeat.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dftd3==1.7.0 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
from ase import Atoms
from dftd3.ase import DFTD3


def outcome(pbc, height):
    layer = Atoms("Ar2", [[0, 0, height], [0, 0, height + 3.8]], cell=[4, 4, 20], pbc=pbc)
    layer.calc = DFTD3(method="PBE", damping="d3bj")
    return layer.get_potential_energy(), layer.get_forces()[0, 2]


inside, below, far_below = (outcome([True, True, False], height) for height in (0, -1, -5))
print("energy and force along z inside the cell:", inside)
print("one atom below the cell:", below)
print("both atoms below the cell:", far_below)
assert abs(far_below[0] - inside[0]) < 1e-10
assert below[0] / inside[0] < 0.7 and abs(below[1] / inside[1]) < 0.01
repeating = [outcome(True, height)[0] for height in (0, -1)]
assert abs(repeating[0] - repeating[1]) < 1e-10
PYTHON
