"""Structures in one stretch of memory, any of which can be copied out fast.

What is known of a structure as a whole lies in one row, so that one miss fetches it. What is known
of atoms lies in columns (`StructureBatch`), structure by structure: a request copies the segments
of its structures to where computations want them. Arrow does that several times faster than NumPy
gathers atoms by their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mtlpar.core.fields import FIELDS, Field, Level
from mtlpar.core.structures import StructureBatch

Array = npt.NDArray[Any]
IndexArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_TARGET: Final = "target_ev_per_atom"


def _packed(level: Level) -> tuple[Field, ...]:
    """Packed fields, wide numbers first, so that all are aligned without gaps between them."""
    fields = (field for field in FIELDS.values() if field.packed and field.level == level)
    return tuple(sorted(fields, key=lambda field: -np.dtype(field.dtype).itemsize))


_ATOM_FIELDS: Final = _packed("atom")

STRUCTURE_ROW: Final = np.dtype(
    [
        (_TARGET, "float64"),
        *((field.name, field.dtype, field.shape) for field in _packed("structure")),
    ],
    align=True,
)
"""Packed fields of one structure, and its training target."""


ATOM_BYTES: Final = sum(field.row_bytes for field in _ATOM_FIELDS)
"""Packed fields of one atom."""

OFFSET_SIZES: Final = tuple(sorted({field.row_bytes for field in _ATOM_FIELDS}))
"""Bytes of an atom in one column or another."""

OFFSET_BYTES: Final = 8 * len(OFFSET_SIZES)
"""What `AtomSegments` need to know of a structure."""


class StructureTable:
    """Rows of structures, and behind them the columns of their atoms, in memory that is given.

    Attributes:
        structures: (S,) of `STRUCTURE_ROW`.
        atoms: Atom columns by name, (A, ...).
    """

    def __init__(self, memory: npt.NDArray[np.uint8], num_structures: int, num_atoms: int) -> None:
        """Lay the table over memory of `table_bytes`, without touching it."""
        end = num_structures * STRUCTURE_ROW.itemsize
        self.structures: Array = memory[:end].view(STRUCTURE_ROW)
        self.atoms: dict[str, Array] = {}
        for field in _ATOM_FIELDS:
            start, end = end, end + num_atoms * field.row_bytes
            column = memory[start:end].view(field.dtype)
            self.atoms[field.name] = column.reshape(num_atoms, *field.shape)

    def fill(
        self, start: int, first_atom: int, batch: StructureBatch, target_ev_per_atom: FloatArray
    ) -> None:
        """Write a batch and its targets, from a structure and an atom on."""
        rows = self.structures[start : start + len(batch)]
        for name in _names(STRUCTURE_ROW):
            rows[name] = target_ev_per_atom if name == _TARGET else getattr(batch, name)
        for name, column in self.atoms.items():
            column[first_atom : first_atom + batch.total_atoms] = getattr(batch, name)

    def to_columns(self) -> tuple[StructureBatch, FloatArray]:
        """Everything in the table; atom columns are views of it."""
        return to_columns(self.structures, self.atoms)


def table_bytes(num_structures: int, num_atoms: int) -> int:
    """Memory of a `StructureTable`."""
    return num_structures * STRUCTURE_ROW.itemsize + num_atoms * ATOM_BYTES


def table_pieces(
    num_structures: int,
    num_atoms: int,
    *,
    structures: IndexArray,
    first_atom: IndexArray,
    counts: IndexArray,
) -> tuple[IndexArray, IndexArray]:
    """Where some structures lie in a table; one piece behind the other they are a table again.

    Args:
        num_structures: Structures of the table.
        num_atoms: Atoms of the table.
        structures: Structures to find, (K,).
        first_atom: Their first atoms, (K,).
        counts: Their numbers of atoms, (K,).

    Returns:
        First bytes and lengths of the pieces.
    """
    size = STRUCTURE_ROW.itemsize
    starts, lengths = [structures * size], [np.full(len(structures), size)]
    column_start = num_structures * size
    for field in _ATOM_FIELDS:
        starts.append(column_start + first_atom * field.row_bytes)
        lengths.append(counts * field.row_bytes)
        column_start += num_atoms * field.row_bytes
    return np.concatenate(starts), np.concatenate(lengths)


def to_columns(structures: Array, atoms: Mapping[str, Array]) -> tuple[StructureBatch, FloatArray]:
    """Structures from their rows and atom columns; what those do not hold gets its default."""
    columns = {
        name: np.full((len(structures), *field.shape), field.default, field.dtype)
        for name, field in FIELDS.items()
        if not field.packed
    }
    columns |= {name: structures[name] for name in _names(STRUCTURE_ROW)}
    target_ev_per_atom = columns.pop(_TARGET).copy()
    return StructureBatch({**columns, **atoms}), target_ev_per_atom


class AtomSegments:
    """Atom columns, of which the atoms of any structures are copied in one go."""

    def __init__(self, columns: Mapping[str, Array], first_byte: Mapping[int, IndexArray]) -> None:
        """Lay segments over the columns, without copying.

        Args:
            columns: Packed atom columns by name, (A, ...).
            first_byte: First byte of each structure and the end, (S + 1,), in columns with atoms
                of each of the `OFFSET_SIZES`.
        """
        self._segments = {
            field.name: _Segments(columns[field.name], first_byte[field.row_bytes])
            for field in _ATOM_FIELDS
        }

    def take(self, structures: IndexArray) -> dict[str, Array]:
        """Copy the atoms of some structures, one structure after the other.

        Raises:
            IndexError: If there is no such structure.
        """
        chosen = pa.array(structures)
        return {
            name: segments.take(structures, chosen) for name, segments in self._segments.items()
        }


def first_bytes(first_atom: IndexArray) -> dict[int, IndexArray]:
    """First bytes of structures, from their first atoms; see `AtomSegments`."""
    return {size: first_atom * size if size > 1 else first_atom for size in OFFSET_SIZES}


class _Segments:
    """One column."""

    def __init__(self, column: Array, first_byte: IndexArray) -> None:
        self._dtype, self._shape = column.dtype, column.shape[1:]
        self._bytes = column.reshape(-1).view(np.uint8)
        self._first_byte = first_byte
        buffers = [None, pa.py_buffer(first_byte), pa.py_buffer(self._bytes)]
        self._array = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(first_byte) - 1, buffers
        )

    def take(self, structures: IndexArray, chosen: pa.Array) -> Array:
        """The same structures for NumPy and for Arrow."""
        # Copying stalls on two misses a structure, its offset and its first byte. Touched before,
        # by loops that do nothing else, all of them are on their way at once.
        if len(self._bytes):
            self._bytes.take(self._first_byte.take(structures), mode="clip")
        taken = self._array.take(chosen).buffers()[-1]
        return np.frombuffer(taken, self._dtype).reshape(-1, *self._shape)


def _names(row: np.dtype[Any]) -> tuple[str, ...]:
    assert row.names is not None
    return row.names
