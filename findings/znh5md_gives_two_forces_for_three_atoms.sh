#!/usr/bin/env bash
# znh5md 0.4.8 drops the force on the last atom of a molecule if that force is not known (NaN).
#
# Expected: forces with a NaN row, the usual mark for "not calculated", come back with one row per
# atom, wherever that row stands.
# Seen: the file pads molecules of different size with NaN, and reading takes trailing NaN rows for
# padding, even though the number of atoms is in the file: water with an unknown force on its last
# atom comes back with two forces for three atoms. On the first or the second atom the NaN stays.
#
# mtlpar does not read H5MD; its own readers stop at forces whose number is not that of the atoms.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet znh5md==0.4.8 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import znh5md
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

shapes = []
for unknown in range(3):
    forces = np.ones((3, 3))
    forces[unknown] = np.nan
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-1.0, forces=forces)
    znh5md.write(f"{unknown}.h5", [water])
    (found,) = znh5md.read(f"{unknown}.h5", slice(None))
    assert len(found) == 3
    shapes.append(found.calc.results["forces"].shape)
print("force unknown on atom 0, 1, 2:", shapes)
assert shapes == [(3, 3), (3, 3), (2, 3)]
PYTHON
