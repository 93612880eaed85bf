"""Reads regular crystals out of JSON text without making an object of every number.

simdjson hands a whole array of numbers over at once, and what is not asked for is never converted:
several times as fast as parsing into dictionaries. Everything out of the ordinary is left to
`pymatgen_json`, which says what is wrong with it; for the rest both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import simdjson
from ase.data import atomic_numbers as _ASE_NUMBERS

from mtlpar.core.structures import StructureBatch
from mtlpar.core.units import VASP_STRESS_KBAR_TO_EV_PER_CUBIC_ANGSTROM

# pymatgen writes the isotopes of hydrogen as elements; ase.data has "X" for dummy atoms.
ELEMENT_NUMBERS: Final[dict[str, int]] = {
    **{symbol: number for symbol, number in _ASE_NUMBERS.items() if number > 0},
    "D": 1,
    "T": 1,
}
VOIGT: Final = (0, 4, 8, 5, 2, 1)  # xx yy zz yz xz xy in a flat tensor
_NINE_OF_SIX: Final = [0, 5, 4, 5, 1, 3, 4, 3, 2]
PERIODIC: Final = [True, True, True]

_ONCE_PER_SITE: Final = (b'"species"', b'"element"', b'"occu"', b'"xyz"')
_NUMBER_BYTES: Final = 8
# What asking for something that is not there, or is something else, can end in.
_IRREGULAR: Final = (
    AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


class CrystalColumns:
    """Columns of ordered, fully periodic crystals that have all labels but perhaps the stress.

    What it is given comes from simdjson; what is not regular ends in one of many exceptions.

    Attributes:
        once_per_site: Keys, in quotes, that the text must hold as often as there are sites: sites
            are too many to look at the keys of each for one that stands twice.
    """

    def __init__(self) -> None:
        self.once_per_site = set(_ONCE_PER_SITE)
        self._numbers: list[list[int]] = []
        self._energy: list[float] = []
        self._group: list[int] = []
        self._stressed: list[int] = []
        self._cell: list[memoryview] = []
        self._positions: list[memoryview] = []
        self._forces: list[memoryview | bytes] = []
        self._stress: list[memoryview | bytes] = []

    def add(
        self,
        structure: Any,
        *,
        energy: Any,
        forces: memoryview | bytes,
        stress: Any,
        group: int | Callable[[list[int]], int],
    ) -> None:
        """Add a crystal.

        Args:
            structure: A ``Structure`` dictionary of N sites.
            energy: Total energy in eV.
            forces: eV/Å, (N, 3) of float64.
            stress: kbar, compression positive, (3, 3), from JSON or as float64; or None.
            group: Hash of what must not be split, or what makes it of the atomic numbers.
        """
        unique_keys(structure)
        lattice = structure["lattice"]
        unique_keys(lattice)
        if lattice.get("pbc") is not None and lattice["pbc"].as_list() != PERIODIC:
            raise ValueError("not periodic in all directions")
        if type(energy) not in (float, int):
            raise TypeError("no energy")
        sites = structure["sites"]
        if memoryview(forces).nbytes != 3 * _NUMBER_BYTES * len(sites):
            raise ValueError("forces for another number of atoms")
        numbers = [_number(site["species"]) for site in sites]
        self._cell.append(_matrix(lattice["matrix"]))
        self._positions += [vector(site["xyz"]) for site in sites]
        self._forces.append(forces)
        if stress is not None:
            self._stressed.append(len(self._numbers))
            self._stress.append(stress if isinstance(stress, bytes) else _matrix(stress))
        self._numbers.append(numbers)
        self._energy.append(float(energy))
        self._group.append(group if isinstance(group, int) else group(numbers))

    def __len__(self) -> int:
        return len(self._numbers)

    def batch(self) -> StructureBatch:
        """The crystals as a batch."""
        stress, stress_mask = np.zeros((len(self), 6)), np.zeros(len(self), np.uint8)
        tensors = np.frombuffer(b"".join(self._stress)).reshape(-1, 9)
        stress[self._stressed] = tensors[:, VOIGT] * VASP_STRESS_KBAR_TO_EV_PER_CUBIC_ANGSTROM
        stress_mask[self._stressed] = 1
        return StructureBatch.from_labels(
            num_atoms=[len(numbers) for numbers in self._numbers],
            atomic_numbers=np.array([one for those in self._numbers for one in those], np.uint8),
            positions=np.frombuffer(b"".join(self._positions)).reshape(-1, 3),
            energy=self._energy,
            forces=np.frombuffer(b"".join(self._forces)).reshape(-1, 3),
            cell=np.frombuffer(b"".join(self._cell)).reshape(-1, 3, 3),
            pbc=np.ones((len(self), 3), np.uint8),
            stress=stress,
            stress_mask=stress_mask,
            group=np.array(self._group, np.uint64),
        )


Gather = Callable[[Any, CrystalColumns], str]
"""Adds all rows among parsed members to the columns and returns the key of the last."""


def gather_quickly(document: bytes, gather: Gather) -> tuple[str, StructureBatch] | None:
    """Read all crystals of a JSON text.

    Returns:
        Key of the last and all in a batch; None if any is irregular or if there are none.
    """
    columns = CrystalColumns()
    try:
        last = gather(simdjson.Parser().parse(document), columns)
    except _IRREGULAR:
        return None
    if not len(columns):
        return None
    batch = columns.batch()
    if any(document.count(key) != batch.total_atoms for key in columns.once_per_site):
        return None
    return last, batch


def unique_keys(mapping: Any) -> list[str]:
    """Keys of a JSON object.

    Raises:
        ValueError: If one stands there twice.
    """
    keys = list(mapping.keys())
    if len(set(keys)) < len(keys):
        raise ValueError("a key is repeated")
    return keys


def _number(species: Any) -> int:
    [one] = species
    if one["occu"] != 1:
        raise ValueError("partly empty")
    return ELEMENT_NUMBERS[one["element"]]


def vector(values: Any) -> memoryview:
    """An array of three numbers, as bytes of float64."""
    if len(values) != 3:
        raise ValueError("no vector")
    return _flat(values, 3)


def vectors(values: Any) -> memoryview:
    """An array of arrays of three numbers, as bytes of float64."""
    if {len(row) for row in values} != {3}:
        raise ValueError("no vectors")
    return _flat(values, 3 * len(values))


def matrix_of_six(values: Any) -> bytes:
    """A symmetric matrix as bytes of float64, of an array xx yy zz yz xz xy."""
    if len(values) != len(VOIGT):
        raise ValueError("no six numbers")
    return np.frombuffer(_flat(values, len(VOIGT)))[_NINE_OF_SIX].tobytes()


def _flat(values: Any, size: int) -> memoryview:
    buffer = memoryview(values.as_buffer(of_type="d"))
    if buffer.nbytes != _NUMBER_BYTES * size:
        raise ValueError("nested deeper")
    return buffer


def _matrix(values: Any) -> memoryview:
    if len(values) != 3:
        raise ValueError("no matrix")
    return vectors(values)
