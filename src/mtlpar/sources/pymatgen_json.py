"""Parses the dictionaries that pymatgen writes, without pymatgen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from ase.data import atomic_numbers as _ASE_NUMBERS

from mtlpar.core.units import VASP_STRESS_KBAR_TO_EV_PER_CUBIC_ANGSTROM
from mtlpar.sources.reading import FloatArray, as_floats, require

# pymatgen writes the isotopes of hydrogen as elements; ase.data has "X" for dummy atoms.
_NUMBER: Final[dict[str, int]] = {
    **{symbol: number for symbol, number in _ASE_NUMBERS.items() if number > 0},
    "D": 1,
    "T": 1,
}


@dataclass(frozen=True, slots=True)
class Crystal:
    """An ordered structure of N atoms.

    Attributes:
        atomic_numbers: (N,).
        positions: Å, (N, 3).
        cell: Lattice vectors in rows, Å, (3, 3).
        pbc: 1 where the structure is periodic, (3,).
    """

    atomic_numbers: npt.NDArray[np.uint8]
    positions: FloatArray
    cell: FloatArray
    pbc: npt.NDArray[np.uint8]


def parse_structure(structure: Any, *, where: str) -> Crystal | None:
    """Parse a ``Structure`` dictionary; None if a site is shared or partly empty.

    Raises:
        ValueError: If it is laid out otherwise.
    """
    lattice = require(structure, "lattice", where)
    cell = as_floats(require(lattice, "matrix", where), (3, 3), name="lattice.matrix", where=where)
    pbc = as_floats(lattice.get("pbc") or [1, 1, 1], (3,), name="lattice.pbc", where=where)
    sites = require(structure, "sites", where)
    numbers = []
    for index, site in enumerate(sites):
        try:
            species = site["species"]
            if len(species) != 1 or species[0]["occu"] != 1:
                return None
            numbers.append(_NUMBER[species[0]["element"]])
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError(
                f"{where}, site {index}: expected one species with the symbol of an 'element' and "
                f"its 'occu', got {site!r:.200}"
            ) from error
    return Crystal(
        atomic_numbers=np.array(numbers, np.uint8),
        positions=_positions(sites, cell, where=where),
        cell=cell,
        pbc=pbc.astype(np.uint8),
    )


def parse_stress(stress: Any, *, where: str) -> FloatArray | None:
    """Convert VASP's stress tensor to our convention; None stays None.

    Args:
        stress: kbar, compression positive, (3, 3).
        where: File and key, for messages.

    Returns:
        eV/Å^3, tension positive, in the order xx yy zz yz xz xy, (6,).
    """
    if stress is None:
        return None
    tensor = as_floats(stress, (3, 3), name="stress", where=where)
    voigt = tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return voigt * VASP_STRESS_KBAR_TO_EV_PER_CUBIC_ANGSTROM


def parse_forces(forces: Any, size: int, *, where: str) -> FloatArray | None:
    """Convert forces in eV/Å to (N, 3); None if they are missing in whole or in part.

    Raises:
        ValueError: If there are forces for another number of atoms.
    """
    if forces is None or (isinstance(forces, list) and None in forces):
        return None
    values = as_floats(forces, (size, 3), name="forces", where=where)
    # JSON has no NaN: these were null.
    return None if np.isnan(values).any() else values


def stress_columns(stress: FloatArray | None) -> dict[str, Any]:
    """Stress and its mask, as fields of one structure."""
    return {
        "stress": np.zeros(6) if stress is None else stress,
        "stress_mask": 0 if stress is None else 1,
    }


def _positions(sites: list[Any], cell: FloatArray, *, where: str) -> FloatArray:
    shape = (len(sites), 3)
    if not sites:
        return np.zeros(shape)
    if all("xyz" in site for site in sites):
        return as_floats([site["xyz"] for site in sites], shape, name="xyz", where=where)
    fractional = [require(site, "abc", where) for site in sites]
    return as_floats(fractional, shape, name="abc", where=where) @ cell
