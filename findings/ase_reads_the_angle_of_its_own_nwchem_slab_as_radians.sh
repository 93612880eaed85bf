#!/usr/bin/env bash
# ASE 3.29.0 writes the angle of an NWChem surface in degrees and reads it as radians.
#
# Expected: write() and read() of a slab in the format "nwchem-in" give the same slab.
# Seen: "gamma 60" (degrees, as NWChem wants it) is converted from radians at reading, so the second
# vector turns by 60 * 180 / pi degrees and the angle becomes 162 degrees. The positions follow the
# cell: neighbours in a copper slab come closer, from 2.55 to 2.09 angstrom. No message. Crystals
# with three periodic directions are written as vectors and do come back.
#
# mtlpar does not read NWChem's input; its check for close atoms is made for such files.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from ase.build import fcc111
from ase.io import read, write

slab = fcc111("Cu", (1, 1, 4), vacuum=6, a=3.6)
write("slab.nwi", slab, format="nwchem-in")
found = read("slab.nwi", format="nwchem-in")
with open("slab.nwi") as stream:
    (line,) = (line.strip() for line in stream if "gamma" in line)
angle = found.cell.angles()[2]
print("file:", line)
print(f"angle written {slab.cell.angles()[2]:.1f}, read {angle:.1f} degrees")
print(f"distance written {slab.get_distance(0, 1):.2f}, read {found.get_distance(0, 1):.2f} A")
assert np.isclose(float(line.split()[1]), 60)
turned = np.degrees(60) % 360
assert np.isclose(min(turned, 360 - turned), angle)
slab.pbc = True
write("slab.nwi", slab, format="nwchem-in")
assert np.isclose(read("slab.nwi", format="nwchem-in").cell.angles()[2], 60)
PYTHON
