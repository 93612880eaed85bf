#!/usr/bin/env bash
# What extxyz 0.4.6 writes of a polarizability, ASE 3.29.0 reads as three words.
#
# Expected: extxyz is the library of the format's authors, so a 3 by 3 matrix that it writes is one
# in ASE too, or reading fails.
# Seen: the matrix stands in the header as polarizability=[[1.0, 0.2, 0.3], [...], [...]], without
# quotation marks. read() of ASE cuts it at the end of each row: atoms.info["polarizability"] is the
# text '[1.0, 0.2, 0.3,' and the other two rows are keys whose value is True. Energies and columns
# of the same frame are right, so nothing looks amiss. Only under the three names that ASE knows,
# Lattice, stress and virial, reading fails. A list in one pair of brackets, such as a dipole, is
# read well. The other way round, extxyz gives what ASE writes of the matrix back as a text.
#
# mtlpar puts such matrices, cells and stresses among them, into ASE's notation before ASE reads
# them.
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

matrix = np.array([[1.0, 0.2, 0.3], [0.2, 2.0, 0.4], [0.3, 0.4, 3.0]])
frame = extxyz.Frame(
    natoms=1,
    cell=4 * np.eye(3),
    pbc=np.array([True] * 3),
    info={"energy": -1.0, "dipole": np.arange(3.0), "polarizability": matrix},
    arrays={"species": np.array(["Ar"]), "pos": np.zeros((1, 3))},
)
extxyz.write_dicts("frame.xyz", frame)
again = extxyz.read_dicts("frame.xyz")
assert np.array_equal(again.info["polarizability"], matrix)

found = read("frame.xyz")
print(found.info)
assert found.get_potential_energy() == -1.0
assert np.array_equal(found.get_dipole_moment(), [0, 1, 2])
assert found.info["polarizability"] == "[1.00000000, 0.20000000, 0.30000000,"
words = [key for key, value in found.info.items() if value is True]
assert words == ["0.20000000, 2.00000000, 0.40000000,", "0.30000000, 0.40000000, 3.00000000]"]

for name in ("stress", "virial"):
    frame.info = {name: matrix}
    extxyz.write_dicts("frame.xyz", frame)
    try:
        read("frame.xyz")
    except ValueError as error:
        print(name, "is refused:", error)
    else:
        raise SystemExit(f"{name} is read now")

atoms = Atoms("Ar", cell=[4, 4, 4], pbc=True, info={"polarizability": matrix})
write("ase.xyz", atoms)
back = extxyz.read_dicts("ase.xyz").info["polarizability"]
print("from ASE:", repr(back))
assert isinstance(back, str)
PYTHON
