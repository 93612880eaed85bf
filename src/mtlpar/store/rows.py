"""Structures in rows: what belongs together lies together, so that one copy fetches it.

A structure is one row of the structure table and ``num_atoms`` consecutive rows of the atom table.
Columns (`StructureBatch`) are what computations want; rows are what random access wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import FIELDS, Level
from mtlpar.core.ragged import ragged_arange
from mtlpar.core.structures import StructureBatch

Rows = npt.NDArray[Any]
IndexArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_TARGET: Final = "target_ev_per_atom"
# NumPy gathers rows of 32 bytes much faster than rows of 25.
_ALIGNMENT: Final = 32
# From this many atoms on, copying structures one by one is faster than gathering their atoms.
_LONG: Final = 32


def _row_dtype(level: Level, extra: Sequence[tuple[str, str]] = ()) -> np.dtype[Any]:
    fields = [
        (field.name, field.dtype, field.shape)
        for field in FIELDS.values()
        if field.level == level and field.packed
    ]
    packed = np.dtype([*fields, *extra], align=True)
    assert packed.names is not None
    assert packed.fields is not None
    return np.dtype(
        {
            "names": list(packed.names),
            "formats": [packed.fields[name][0] for name in packed.names],
            "offsets": [packed.fields[name][1] for name in packed.names],
            "itemsize": -(-packed.itemsize // _ALIGNMENT) * _ALIGNMENT,
        }
    )


STRUCTURE_ROW: Final = _row_dtype("structure", [(_TARGET, "float64")])
"""Packed fields of one structure, and its training target."""

ATOM_ROW: Final = _row_dtype("atom")
"""Packed fields of one atom."""


def fill_rows(
    structures: Rows, atoms: Rows, batch: StructureBatch, target_ev_per_atom: FloatArray
) -> None:
    """Write a batch into rows of both tables, (S,) and (A,)."""
    for name in _names(STRUCTURE_ROW):
        structures[name] = target_ev_per_atom if name == _TARGET else getattr(batch, name)
    for name in _names(ATOM_ROW):
        atoms[name] = getattr(batch, name)


def to_columns(structures: Rows, atoms: Rows) -> tuple[StructureBatch, FloatArray]:
    """Undo `fill_rows`; what rows do not hold gets its default."""
    columns = {
        name: np.full((len(structures), *field.shape), field.default, field.dtype)
        for name, field in FIELDS.items()
        if not field.packed
    }
    for rows in (structures, atoms):
        columns |= {name: _column(rows[name]) for name in _names(rows.dtype)}
    target_ev_per_atom = columns.pop(_TARGET)
    return StructureBatch(columns), target_ev_per_atom


def take_atoms(atoms: Rows, first: IndexArray, counts: IndexArray) -> Rows:
    """Copy the atoms of some structures, one structure after the other.

    Args:
        atoms: The atom table.
        first: First atom of each structure, (K,).
        counts: Atoms of each structure, (K,).
    """
    words = atoms.view(np.uint64).reshape(-1, atoms.itemsize // 8)
    if len(first) and counts.sum() >= _LONG * len(first):
        ends = (first + counts).tolist()
        taken = np.concatenate(
            [words[start:end] for start, end in zip(first.tolist(), ends, strict=True)]
        )
    else:
        taken = words.take(ragged_arange(first, counts), axis=0)
    return taken.view(atoms.dtype)[:, 0]


def _column(field: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Copy one field of many rows into contiguous memory."""
    column = np.empty(field.shape, field.dtype)
    # Component by component: NumPy is slow where its innermost loop has three steps.
    for component in np.ndindex(field.shape[1:]):
        column[:, *component] = field[:, *component]
    return column


def _names(row: np.dtype[Any]) -> tuple[str, ...]:
    assert row.names is not None
    return row.names
