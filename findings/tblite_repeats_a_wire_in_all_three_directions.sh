#!/usr/bin/env bash
# tblite 0.8.0's calculator for ASE: whatever repeats in one direction repeats in all.
#
# Expected: with pbc T F F, hydrogen molecules side by side in a row interact with the row alone; or
# the calculator refuses what it cannot do.
# Seen: one direction is enough for the whole cell to repeat. Energy, forces and stress are those of
# pbc T T T, also across a gap of 3 angstrom that was to be vacuum. No message. Only pbc F F F
# differs.
#
# mtlpar repeats a structure along each direction that pbc names.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tblite==0.8.0 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
from ase import Atoms
from tblite.ase import TBLite

energies = {}
for pbc in ("TTT", "TTF", "TFF", "FFF"):
    wire = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], cell=[3, 3, 3])
    wire.pbc = [one == "T" for one in pbc]
    wire.calc = TBLite(method="GFN1-xTB", verbosity=0)
    energies[pbc] = wire.get_potential_energy()
print(energies)
assert abs(energies["TFF"] - energies["TTT"]) < 1e-8
assert abs(energies["TTF"] - energies["TTT"]) < 1e-8
assert abs(energies["FFF"] - energies["TTT"]) > 0.5
PYTHON
