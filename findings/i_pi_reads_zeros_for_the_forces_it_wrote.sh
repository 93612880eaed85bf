#!/usr/bin/env bash
# i-PI 3.3.1 with ASE 3.29.0: what its mode "ase" writes, its mode "ase" reads as something else.
#
# Expected: read_file() of a file that print_file() wrote gives the same numbers, in atomic units,
# whether the mode is "xyz" or "ase" (extended XYZ); the comment in both names quantity and unit.
# Seen: in the mode "xyz" it does. In the mode "ase" the comment is not read. Positions come back in
# angstrom inside of a cell in bohr, so the atoms fill a seventh of its volume. Of a file of forces
# the positions are read, which i-PI wrote as zeros: all forces are zero. No message.
#
# mtlpar's models run in i-PI by its socket or as metatomic models: read such files with ASE, or
# with ipi.read_trajectory.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ipi==3.3.1 ase==3.29.0 numpy scipy
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from ipi.engine.atoms import Atoms
from ipi.engine.cell import Cell
from ipi.utils.io import print_file, read_file

BOHR = 0.529177
numbers = np.arange(6) + 0.5
atoms, cell = Atoms(2), Cell(np.diag([10.0, 11.0, 12.0]))
atoms.q[:], atoms.names[:] = numbers, ["Cu", "Cu"]


def round_trip(mode, key, dimension):
    name = f"{key}.{mode}"
    with open(name, "w") as file:
        print_file(mode, atoms, cell, file, key=key, dimension=dimension)
    with open(name) as file:
        read = read_file(mode, file)
    assert np.allclose(np.diag(read["cell"].h), [10, 11, 12], atol=1e-4)
    print(mode, key, "written", numbers, "read", np.array(read["atoms"].q))
    return np.array(read["atoms"].q)


for key, dimension in (("positions", "length"), ("forces", "force")):
    assert np.allclose(round_trip("xyz", key, dimension), numbers)
assert np.allclose(round_trip("ase", "positions", "length"), numbers * BOHR, atol=1e-5)
assert np.array_equal(round_trip("ase", "forces", "force"), np.zeros(6))
PYTHON
