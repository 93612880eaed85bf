#!/usr/bin/env bash
# ASE 3.29.0 adds an atom's tag to its atomic number when it writes a CRYSTAL file (fort.34).
#
# Expected: a copper slab from ase.build.fcc111 is copper after write() and read() in the format
# "crystal". Tags are ASE's free labels; slab builders number the layers with them.
# Seen: the file holds 29 + tag, so a slab of four layers comes back as zinc, gallium, germanium and
# arsenic. The program CRYSTAL itself would calculate those, too. The format has room for such
# numbers only above 100 (basis sets and pseudopotentials); nothing limits the tags to that, and
# nothing warns.
#
# mtlpar reads elements from files as they are there; reference energies that do not fit are
# reported.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
from ase.build import fcc111
from ase.io import read, write

slab = fcc111("Cu", (1, 1, 4), vacuum=6)
write("fort.34", slab, format="crystal")
found = read("fort.34", format="crystal")
print("written", slab.symbols, "tags", slab.get_tags(), "read", found.symbols)
assert found.get_chemical_symbols() == ["As", "Ge", "Ga", "Zn"]
slab.set_tags(0)
write("fort.34", slab, format="crystal")
assert read("fort.34", format="crystal").get_chemical_symbols() == ["Cu"] * 4
PYTHON
