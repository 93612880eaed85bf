"""Compositions of many structures, without a loop over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from ase.data import chemical_symbols

from mtlpar.core.fields import MAX_ATOMIC_NUMBER
from mtlpar.core.hashing import UInt64Array, mix64
from mtlpar.core.structures import IndexArray, atom_indices, segment_sum

CountArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

NUM_ELEMENTS: Final = MAX_ATOMIC_NUMBER + 1
HASH_OF_ELEMENT: Final = mix64(np.arange(NUM_ELEMENTS, dtype=np.uint64))
"""By atomic number, (119,)."""


@dataclass(frozen=True, slots=True)
class Compositions:
    """The U distinct compositions of S structures.

    Attributes:
        key: Hash of each composition, ascending, (U,).
        counts: Atoms by atomic number, (U, 119).
        member: Which composition each structure has, (S,).
    """

    key: UInt64Array
    counts: CountArray
    member: IndexArray


def hash_compositions(
    num_atoms: npt.NDArray[np.int32], atomic_numbers: npt.NDArray[np.uint8]
) -> UInt64Array:
    """Hashes of the compositions of structures (S,), as `Compositions.key` has them.

    The sum of the atoms' hashes wraps around and does not depend on the order of the atoms.

    Args:
        num_atoms: Atoms per structure, (S,).
        atomic_numbers: Elements of all atoms, structure after structure, (A,).
    """
    return segment_sum(HASH_OF_ELEMENT[atomic_numbers], num_atoms)


def compositions(
    num_atoms: npt.NDArray[np.int32], atomic_numbers: npt.NDArray[np.uint8]
) -> Compositions:
    """Find the distinct compositions of structures.

    Args:
        num_atoms: Atoms per structure, (S,).
        atomic_numbers: Elements of all atoms, structure after structure, (A,).
    """
    hashes = hash_compositions(num_atoms, atomic_numbers)
    key, first, member = np.unique(hashes, return_index=True, return_inverse=True)
    offsets = np.concatenate([[0], np.cumsum(num_atoms, dtype=np.int64)])
    rows = np.repeat(np.arange(len(key)), num_atoms[first])
    elements = atomic_numbers[atom_indices(offsets, first)]
    counts = np.bincount(rows * NUM_ELEMENTS + elements, minlength=len(key) * NUM_ELEMENTS)
    return Compositions(key, counts.reshape(len(key), NUM_ELEMENTS), member)


def reduced_where(found: Compositions, crystals: BoolArray) -> Compositions:
    """The same with the formula units of crystals: those of all cells of a crystal are alike.

    Args:
        found: Compositions of S structures.
        crystals: Which of these are crystals, (S,).
    """
    units = found.counts // np.gcd.reduce(found.counts, axis=1)[:, None]
    # As `compositions` sums the hashes of atoms, wrapping around.
    keys = (units.astype(np.uint64) * HASH_OF_ELEMENT).sum(axis=1, dtype=np.uint64)
    key, first, member = np.unique(
        np.where(crystals, keys[found.member], found.key[found.member]),
        return_index=True,
        return_inverse=True,
    )
    of_first = found.member[first]
    counts = np.where(crystals[first, None], units[of_first], found.counts[of_first])
    return Compositions(key, counts, member)


def formula(counts: CountArray) -> str:
    """Formula of one composition (119,), carbon and hydrogen first (Hill's order)."""
    symbols = {chemical_symbols[z]: int(counts[z]) for z in np.flatnonzero(counts)}
    first = [symbol for symbol in ("C", "H") if "C" in symbols and symbol in symbols]
    ordered = [*first, *sorted(set(symbols) - set(first))]
    return "".join(f"{name}{symbols[name] if symbols[name] > 1 else ''}" for name in ordered)
