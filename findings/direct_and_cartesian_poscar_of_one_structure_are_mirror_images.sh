#!/usr/bin/env bash
# pymatgen 2026.10.24 writes two mirror images of one structure: one in direct, one in Cartesian
# form.
#
# Expected: Poscar(structure).get_str(direct=True) and (direct=False) describe the same structure.
# Seen: if the lattice vectors are left-handed, all three are written with the other sign, as VASP
# wants right-handed ones. Cartesian positions stay, which is right: the lattice is the same one.
# Fractional positions stay, too, and so turn every molecule in the cell into its mirror image. The
# distances are equal, so nothing looks wrong, but forces that belonged to the structure now point
# the wrong way, and an L-amino acid is a D-amino acid. structure.to(fmt="poscar") takes the direct
# form.
#
# mtlpar builds positions from the lattice vectors as they are written, whatever their handedness.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pymatgen==2026.10.24
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

lattice = Lattice([[0, 6, 0], [6.5, 0.3, 0], [0.5, 0.2, 7]])
positions = [[1, 1, 1], [2.1, 1.2, 1.1], [1.2, 2.3, 1.3], [1.1, 0.9, 2.7], [0.4, 0.3, 0.5]]
molecule = Structure(lattice, ["C", "H", "F", "Cl", "Br"], positions, coords_are_cartesian=True)


def handedness(structure):
    carbon = structure[0]
    bonds = []
    for other in structure[1:4]:
        _, image = carbon.distance_and_image(other)
        bonds.append(structure.lattice.get_cartesian_coords(other.frac_coords + image))
    return np.sign(np.linalg.det(np.array(bonds) - carbon.coords))


found = {"itself": handedness(molecule)}
for direct in (True, False):
    text = Poscar(molecule).get_str(direct=direct)
    read = Poscar.from_str(text).structure
    assert np.allclose(read.distance_matrix, molecule.distance_matrix)
    found["direct" if direct else "Cartesian"] = handedness(read)
print(found)
assert found["Cartesian"] == found["itself"] == -found["direct"]
PYTHON
