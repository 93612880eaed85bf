#!/usr/bin/env bash
# pymatgen 2026.10.24 takes the occupancy "." in a CIF for zero and leaves the atom out.
#
# Expected: a dot stands for the default where a value has one; that of an occupancy is 1. The
# question mark, for a value not known, is the doubtful one.
# Seen: it is the other way round. "?" is a full atom, "." none at all. If the element stands on
# another site, too, no warning names it, and the crystal has another composition. ASE 3.29.0 reads
# full atoms in both cases.
#
# mtlpar reads no CIF.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0 pymatgen==2026.10.24
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings
from pathlib import Path

from ase.io import read
from pymatgen.core import Structure

head = """data_rocksalt
_cell_length_a 4
_cell_length_b 4
_cell_length_c 6
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_symmetry_equiv_pos_as_xyz
x,y,z
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Fe1 Fe 0 0 0 1
O1 O 0.5 0.5 0.25 1
"""
formulas = {}
for sign in (".", "?"):
    Path("iron.cif").write_text(head + f"Fe2 Fe 0 0 0.5 {sign}\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        structure = Structure.from_file("iron.cif")
    messages = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    formulas[sign] = structure.composition.formula
    print(sign, formulas[sign], "ASE:", read("iron.cif").symbols, "warnings:", messages)
    assert not any("Fe" in message or "occupan" in message for message in messages)
    assert len(read("iron.cif")) == 3
assert formulas == {".": "Fe1 O1", "?": "Fe2 O1"}
PYTHON
