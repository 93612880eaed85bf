"""Crystal prototypes, and the elements that may take their sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .base import FloatArray

SQRT2: Final = float(np.sqrt(2.0))
SQRT3: Final = float(np.sqrt(3.0))

CUBIC: Final = np.eye(3)
FCC: Final = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
FCC_TO_CUBIC: Final = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
FCC_TO_TETRAGONAL: Final = np.array([[0, 0, 1], [-1, 1, 0], [1, 1, -1]])


def hexagonal(ratio: float) -> FloatArray:
    """The hexagonal cell of unit a and the given c/a, shape (3, 3)."""
    return np.array([[0.5, -SQRT3 / 2, 0.0], [0.5, SQRT3 / 2, 0.0], [0.0, 0.0, ratio]])


def tetragonal(ratio: float) -> FloatArray:
    """The tetragonal cell of unit a and the given c/a, shape (3, 3)."""
    return np.diag([1.0, 1.0, ratio])


@dataclass(frozen=True)
class Prototype:
    """A structure type.

    Attributes:
        name: Name of the type.
        spacegroup: Number of its space group.
        cell: Lattice vectors as rows in units of the lattice constant, shape (3, 3).
        sites: Role and fractional coordinates of every site.
        roles: The roles, each mapped to the pool of elements it may take.
        contacts: Pairs of roles with their distance in units of the lattice constant.
        enlarge: Supercell matrix at which the Gamma point alone is a fair approximation.
    """

    name: str
    spacegroup: int
    cell: FloatArray
    sites: tuple[tuple[str, tuple[float, float, float]], ...]
    roles: dict[str, str]
    contacts: tuple[tuple[str, str, float], ...]
    enlarge: FloatArray

    def multiplicity(self, role: str) -> int:
        """The number of sites with a role."""
        return sum(site_role == role for site_role, _ in self.sites)


_AX: Final = {"A": "cation", "X": "anion"}
_ABX: Final = {"A": "cation", "B": "cation", "X": "anion"}
_ONE: Final = np.eye(3, dtype=int)
_TWICE: Final = np.diag([1, 1, 2])
_QUARTER: Final = (0.25, 0.25, 0.25)
_HALF: Final = (0.5, 0.5, 0.5)
_THREE_QUARTERS: Final = (0.75, 0.75, 0.75)
_ORIGIN: Final = (0.0, 0.0, 0.0)
_EDGES: Final = ((0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.5))
_FACES: Final = ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))


def _octahedron(u: float) -> tuple[tuple[str, tuple[float, float, float]], ...]:
    """Return six anions at distance u along the cubic axes, in primitive fcc coordinates."""
    to_fractional = np.linalg.inv(FCC)
    points = [sign * u * np.eye(3)[axis] @ to_fractional for axis in range(3) for sign in (1, -1)]
    return tuple(("X", (float(p[0]), float(p[1]), float(p[2]))) for p in points)


def _rutile(u: float) -> tuple[tuple[str, tuple[float, float, float]], ...]:
    anions = ((u, u, 0.0), (-u, -u, 0.0), (0.5 + u, 0.5 - u, 0.5), (0.5 - u, 0.5 + u, 0.5))
    return (("A", _ORIGIN), ("A", _HALF), *(("X", site) for site in anions))


PROTOTYPES: Final = (
    Prototype("rocksalt", 225, FCC, (("A", _ORIGIN), ("X", _HALF)), _AX,
              (("A", "X", 0.5),), FCC_TO_CUBIC),
    Prototype("zincblende", 216, FCC, (("A", _ORIGIN), ("X", _QUARTER)), _AX,
              (("A", "X", SQRT3 / 4),), FCC_TO_CUBIC),
    Prototype("cesium_chloride", 221, CUBIC, (("A", _ORIGIN), ("X", _HALF)), _AX,
              (("A", "X", SQRT3 / 2),), np.diag([1, 2, 2])),
    Prototype("wurtzite", 186, hexagonal(1.633),
              (("A", (1 / 3, 2 / 3, 0.0)), ("A", (2 / 3, 1 / 3, 0.5)),
               ("X", (1 / 3, 2 / 3, 0.375)), ("X", (2 / 3, 1 / 3, 0.875))), _AX,
              (("A", "X", 0.6124),), _ONE),
    Prototype("fluorite", 225, FCC,
              (("A", _ORIGIN), ("X", _QUARTER), ("X", _THREE_QUARTERS)), _AX,
              (("A", "X", SQRT3 / 4),), FCC_TO_TETRAGONAL),
    Prototype("antifluorite", 225, FCC,
              (("A", _QUARTER), ("A", _THREE_QUARTERS), ("X", _ORIGIN)), _AX,
              (("A", "X", SQRT3 / 4),), FCC_TO_TETRAGONAL),
    Prototype("rutile", 136, tetragonal(0.66), _rutile(0.305), _AX,
              (("A", "X", 0.431),), _ONE),
    Prototype("cadmium_iodide", 164, hexagonal(1.6),
              (("A", _ORIGIN), ("X", (1 / 3, 2 / 3, 0.25)), ("X", (2 / 3, 1 / 3, 0.75))), _AX,
              (("A", "X", 0.702),), _TWICE),
    Prototype("rhenium_trioxide", 221, CUBIC,
              (("A", _ORIGIN), *(("X", site) for site in _EDGES)), _AX,
              (("A", "X", 0.5),), _TWICE),
    Prototype("half_heusler", 216, FCC,
              (("A", _HALF), ("B", _ORIGIN), ("X", _QUARTER)), _ABX,
              (("A", "X", SQRT3 / 4), ("B", "X", SQRT3 / 4)), FCC_TO_TETRAGONAL),
    Prototype("layered_rocksalt", 123, tetragonal(SQRT2),
              (("A", _ORIGIN), ("B", _HALF), ("X", (0.5, 0.5, 0.0)), ("X", (0.0, 0.0, 0.5))),
              _ABX, (("A", "X", SQRT2 / 2), ("B", "X", SQRT2 / 2)), _TWICE),
    Prototype("layered_zincblende", 115, tetragonal(SQRT2),
              (("A", _ORIGIN), ("B", _HALF), ("X", (0.5, 0.0, 0.25)), ("X", (0.0, 0.5, 0.75))),
              _ABX, (("A", "X", 0.6124), ("B", "X", 0.6124)), _ONE),
    Prototype("perovskite", 221, CUBIC,
              (("A", _ORIGIN), ("B", _HALF), *(("X", site) for site in _FACES)), _ABX,
              (("A", "X", SQRT2 / 2), ("B", "X", 0.5)), _ONE),
    Prototype("antiperovskite", 221, CUBIC,
              (("X", _ORIGIN), ("Y", _HALF), *(("A", site) for site in _FACES)),
              {"A": "cation", "X": "anion", "Y": "anion"},
              (("A", "X", SQRT2 / 2), ("A", "Y", 0.5)), _ONE),
    Prototype("hexachloroplatinate", 225, FCC,
              (("A", _QUARTER), ("A", _THREE_QUARTERS), ("B", _ORIGIN), *_octahedron(0.24)),
              _ABX, (("A", "X", 0.3536), ("B", "X", 0.24)), _ONE),
    Prototype("elpasolite", 225, FCC,
              (("A", _QUARTER), ("A", _THREE_QUARTERS), ("B", _HALF), ("C", _ORIGIN),
               *_octahedron(0.24)),
              {"A": "cation", "B": "cation", "C": "cation", "X": "anion"},
              (("A", "X", 0.3536), ("B", "X", 0.26), ("C", "X", 0.24)), _ONE),
    Prototype("face_centred", 225, FCC, (("E", _ORIGIN),), {"E": "noble_gas"},
              (("E", "E", SQRT2 / 2),), _ONE),
)  # fmt: skip
"""All structure types; the order decides their turn in the enumeration."""

CATIONS: Final = {
    1: {"Li": 0.76, "Na": 1.02, "K": 1.38, "Rb": 1.52, "Cs": 1.67, "Cu": 0.77, "Ag": 1.15,
        "Tl": 1.50},
    2: {"Be": 0.45, "Mg": 0.72, "Ca": 1.00, "Sr": 1.18, "Ba": 1.35, "Zn": 0.74, "Cd": 0.95,
        "Hg": 1.02, "Sn": 1.18, "Pb": 1.19, "Ge": 0.73},
    3: {"B": 0.27, "Al": 0.535, "Ga": 0.62, "In": 0.80, "Sc": 0.745, "Y": 0.90, "La": 1.03,
        "Bi": 1.03, "Sb": 0.76, "Tl": 0.885},
    4: {"C": 0.16, "Si": 0.40, "Ge": 0.53, "Sn": 0.69, "Pb": 0.775, "Ti": 0.605, "Zr": 0.72,
        "Hf": 0.71},
    5: {"V": 0.54, "Nb": 0.64, "Ta": 0.64},
}  # fmt: skip
"""Shannon radii in Å of six-coordinated cations, by oxidation state."""

ANIONS: Final = {
    -1: {"F": 1.33, "Cl": 1.81, "Br": 1.96, "I": 2.20, "H": 1.40},
    -2: {"O": 1.40, "S": 1.84, "Se": 1.98, "Te": 2.21},
    -3: {"N": 1.46, "P": 2.00},
}
"""Radii in Å of anions, by oxidation state."""

ELEMENTS: Final = {
    "noble_gas": {"Ne": 1.55, "Ar": 1.88, "Kr": 2.00, "Xe": 2.17},
}
"""Half the distance in Å between neighbours in the element, by kind of packing."""

COMMON: Final = frozenset(
    {"Li", "O", "Ne", "Na", "Mg", "Al", "S", "Cl", "Ar", "K", "Ca", "Zn", "Br", "Rb", "Sr", "I"}
)
"""Elements whose compounds are drawn first.

No fluorine: at the Gamma point fluorides of divalent metals are off by more than 1 eV per atom.
"""

ELECTRONEGATIVITY: Final = {
    "H": 2.20, "Li": 0.98, "Be": 1.57, "B": 2.04, "C": 2.55, "N": 3.04, "O": 3.44, "F": 3.98,
    "Na": 0.93, "Mg": 1.31, "Al": 1.61, "Si": 1.90, "P": 2.19, "S": 2.58, "Cl": 3.16, "K": 0.82,
    "Ca": 1.00, "Sc": 1.36, "Ti": 1.54, "V": 1.63, "Cu": 1.90, "Zn": 1.65, "Ga": 1.81,
    "Ge": 2.01, "As": 2.18, "Se": 2.55, "Br": 2.96, "Rb": 0.82, "Sr": 0.95, "Y": 1.22,
    "Zr": 1.33, "Nb": 1.60, "Mo": 2.16, "Ag": 1.93, "Cd": 1.69, "In": 1.78, "Sn": 1.96,
    "Sb": 2.05, "Te": 2.10, "I": 2.66, "Cs": 0.79, "Ba": 0.89, "La": 1.10, "Hf": 1.30,
    "Ta": 1.50, "W": 2.36, "Hg": 2.00, "Tl": 1.62, "Pb": 1.87, "Bi": 2.02,
}  # fmt: skip
"""Pauling electronegativity of every element that enters a compound."""
