#!/usr/bin/env bash
# pymatgen 2026.10.24 and ASE 3.29.0: atoms held by a POSCAR are free after a visit to the other.
#
# Expected: "F F T" in a POSCAR (an atom that may move along z alone) survives the way from pymatgen
# to ASE and into a POSCAR again, and the way back; where it cannot, something warns.
# Seen: pymatgen's adaptor turns it into ASE's FixCartesian. ASE writes a POSCAR of that with the
# heading "Selective dynamics" and "T T T", so the atom moves as it likes, and says nothing. For its
# own reading of the same line ASE makes FixScaled, which it also writes; that one, pymatgen's
# adaptor does not know and drops (with a warning). Each library knows the class that the other does
# not use.
#
# mtlpar reads no constraints: labels do not depend on them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0 pymatgen==2026.10.24
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np
from ase.io import read, write
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

moves = [[False, False, False], [False, False, True]]
start = Structure(
    Lattice.cubic(4),
    ["Cs", "Cl"],
    [[0, 0, 0], [0.5, 0.5, 0.5]],
    site_properties={"selective_dynamics": moves},
)


def flags(path):
    with open(path) as stream:
        words = [line.split() for line in stream][9:11]
    return [[word == "T" for word in line if word in ("T", "F")] for line in words]


start.to("POSCAR_pymatgen", fmt="poscar")
assert flags("POSCAR_pymatgen") == moves
atoms = AseAtomsAdaptor.get_atoms(start)
with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)
    write("POSCAR_ase", atoms, format="vasp")
print("from pymatgen to ASE:", atoms.constraints, "written", flags("POSCAR_ase"))
assert "FixCartesian" in str(atoms.constraints)
assert flags("POSCAR_ase") == [[False, False, False], [True, True, True]]

direct = read("POSCAR_pymatgen", format="vasp")
write("POSCAR_ase", direct, format="vasp")
assert flags("POSCAR_ase") == moves
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    back = AseAtomsAdaptor.get_structure(direct)
found = back.site_properties.get("selective_dynamics")
print("from ASE to pymatgen:", direct.constraints, "becomes", found)
assert "FixScaled" in str(direct.constraints) and caught
assert found is None or np.all(found[1])
PYTHON
