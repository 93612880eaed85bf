#!/usr/bin/env bash
# ASE 3.29.0 writes an empty text into extended XYZ such that reading loses the entry after it.
#
# Expected: atoms.info["note"] = "" comes back as "" or not at all; in any case the note is the only
# thing at stake.
# Seen: write() leaves 'note= energy=-1.0' in the header, without quotation marks. read() takes all
# of 'energy=-1.0' for the note: the frame has no energy any more, and a note="" that another
# program wrote does the same. What is lost depends on what stands next: another note, the energy,
# or in a frame without either the periodic directions, so that a slab repeats in all three
# directions. libAtoms' own reader, extxyz 0.4.6, takes such a header for none at all and stops at
# the first atom.
#
# mtlpar removes such entries from a header before ASE reads it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0 extxyz==0.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import extxyz
from ase.build import fcc111
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from extxyz.cextxyz import ExtXYZError

slab = fcc111("Cu", (1, 1, 2), vacuum=5)
slab.info = {"note": ""}
write("slab.xyz", slab)
no_energy = read("slab.xyz")
print("asked for pbc", slab.pbc, "got", no_energy.pbc, no_energy.info)
assert slab.pbc.tolist() == [True, True, False] and no_energy.pbc.all()
assert no_energy.info == {"note": "pbc=T T F"}

slab.calc = SinglePointCalculator(slab, energy=-1.0)
write("slab.xyz", slab)
with_energy = read("slab.xyz")
print("asked for energy -1 eV, got", with_energy.calc, with_energy.info)
assert with_energy.calc is None and with_energy.info == {"note": "energy=-1.0"}
try:
    list(extxyz.iread_dicts("slab.xyz"))
except ExtXYZError as error:
    print("libAtoms:", error)
else:
    raise SystemExit("libAtoms reads it now")

with open("quoted.xyz", "w") as stream:
    stream.write('1\nProperties=species:S:1:pos:R:3 note="" energy=-1.0 pbc="F F F"\nH 0 0 0\n')
assert read("quoted.xyz").calc is None

slab.info = {"note": "relaxed"}
write("slab.xyz", slab)
assert read("slab.xyz").get_potential_energy() == -1.0
PYTHON
