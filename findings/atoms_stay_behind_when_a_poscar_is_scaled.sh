#!/usr/bin/env bash
# jarvis-tools 2026.6.12 and atomman 1.5.4: the scale of a POSCAR moves the cell but not its
# Cartesian coordinates.
#
# Expected: VASP multiplies lattice vectors and Cartesian coordinates by the scale of line 2, so
# this file is caesium chloride, with chlorine in the middle of a cube of 5 angstrom; or the reader
# says that it knows no scale.
# Seen, in both: the cube has 5 angstrom, and chlorine lies at a quarter of its diagonal, 2.17
# angstrom from caesium instead of 4.33. No message. With fractional coordinates or a scale of one
# they agree with ASE, so files that they write themselves never show it.
#
# mtlpar reads POSCAR through ASE, which scales both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jarvis-tools==2026.6.12 atomman==1.5.4 ase==3.29.0
cd "$work"
cat > POSCAR <<'POSCAR'
caesium chloride
2.0
2.5 0.0 0.0
0.0 2.5 0.0
0.0 0.0 2.5
Cs Cl
1 1
Cartesian
0.00 0.00 0.00
1.25 1.25 1.25
POSCAR
"$work/venv/bin/python" - <<'PYTHON'
import warnings

warnings.simplefilter("ignore")
import ase.io
import atomman
from jarvis.io.vasp.inputs import Poscar

by_ase = ase.io.read("POSCAR", format="vasp")
by_jarvis = Poscar.from_file("POSCAR").atoms
by_atomman = atomman.load("poscar", "POSCAR")
found = {
    "ase": (by_ase.cell.array, by_ase.get_scaled_positions()),
    "jarvis-tools": (by_jarvis.lattice_mat, by_jarvis.frac_coords),
    "atomman": (by_atomman.box.vects, by_atomman.atoms_prop("pos", scale=True)),
}
for name, (cell, places) in found.items():
    edge, chlorine = float(cell[0][0]), [float(one) for one in places[1]]
    print(f"{name}: a cube of {edge}, chlorine at {chlorine}")
    assert abs(edge - 5) < 1e-9
    assert all(abs(one - (0.5 if name == "ase" else 0.25)) < 1e-9 for one in chlorine)
PYTHON
