#!/usr/bin/env bash
# ASE 3.29.0 writes extended XYZ that it refuses to read: six numbers named "virial".
#
# Expected: a frame whose info holds a virial as six numbers (the usual short form of a symmetric
# matrix) comes back from write() and read() as it was, like any other array of six numbers.
# Seen: write() puts the six numbers into the header without a word. read() then ends with a
# ValueError that wants a 3x3 matrix, and with it every frame behind that one is out of reach. Under
# the name "stress" the same six numbers are written as nine and read; under "my_virial" they come
# back as six; libAtoms' own reader, extxyz 0.4.6, takes all three files.
#
# mtlpar reads such files, with the order of the six numbers as the configuration states it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0 extxyz==0.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import extxyz
import numpy as np
from ase import Atoms
from ase.io import read, write

six = np.arange(1.0, 7.0)


def file_with(name):
    atoms = Atoms("Cu2", [[0, 0, 0], [2, 2, 0]], cell=[4, 4, 4], pbc=True)
    atoms.info[name] = six
    write(f"{name}.xyz", atoms, format="extxyz")
    return f"{name}.xyz"


for name in ("my_virial", "stress"):
    frame = read(file_with(name))
    found = frame.info.get(name, frame.calc and frame.get_stress())
    assert np.array_equal(found, six), found
path = file_with("virial")
(frame,) = extxyz.iread_dicts(path)
assert np.array_equal(frame.info["virial"], six)
try:
    read(path)
except ValueError as error:
    print(f"ASE reads its own file: {error}")
    assert "expecting special 3x3 matrix" in str(error)
else:
    raise SystemExit("ASE reads six numbers named virial now")
PYTHON
