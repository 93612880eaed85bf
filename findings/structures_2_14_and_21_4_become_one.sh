#!/usr/bin/env bash
# ASE 3.29.0 reads the name "2_14" in extended XYZ as the number 214.
#
# Expected: a name with an underscore is a text, and comes back as it was written; at worst names of
# digits alone become numbers.
# Seen: Python's own int() allows underscores between digits, and ASE's reader asks int(). Frames
# named by "row_frame", such as 2_14, 21_4 and 214, all come back as the integer 214, so that a
# split by name puts frames of different trajectories together. "0_5" is 5 and "1_0.5" is 10.5.
# Quotation marks do not help. ASE's database refuses the same texts, as they "can be interpreted as
# int", and libAtoms' reader, extxyz 0.4.6, keeps them.
#
# mtlpar reads through ASE: give names a letter.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0 extxyz==0.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import extxyz
from ase import Atoms
from ase.io import read, write

names = ["2_14", "21_4", "214", "1_0.5", "mof_2_14"]
frames = [Atoms("H", info={"name": name}) for name in names]
write("frames.xyz", frames)
theirs = [frame.info["name"] for frame in read("frames.xyz", index=":")]
libatoms = [frame.info["name"] for frame in extxyz.iread_dicts("frames.xyz")]
print("written ", names)
print("ASE     ", theirs)
print("libAtoms", libatoms)
assert theirs == [214, 214, 214, 10.5, "mof_2_14"]
assert libatoms[:2] == names[:2] and libatoms[-2:] == names[-2:]
with open("quoted.xyz", "w") as stream:
    print('1\nProperties=species:S:1:pos:R:3 name="2_14" pbc="F F F"\nH 0 0 0', file=stream)
assert read("quoted.xyz").info["name"] == 214
PYTHON
