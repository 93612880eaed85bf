"""Tables hold what columns hold, and give back any structures of it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import make_structures

from mtlpar.core.fields import FIELDS
from mtlpar.core.structures import StructureBatch
from mtlpar.store.table import (
    AtomSegments,
    StructureTable,
    first_bytes,
    table_bytes,
    table_pieces,
)

TARGET = np.linspace(-1, 1, 7)


def _batch() -> StructureBatch:
    """Every packed column has values of its own, so that none can stand for another."""
    batch = make_structures(7, seed=2)
    for shift, (name, field) in enumerate(FIELDS.items()):
        if field.packed and name != "num_atoms":
            column = getattr(batch, name)
            column[...] = (np.arange(column.size).reshape(column.shape) + 10 * shift) % 100
    return batch


def _table(batch: StructureBatch) -> tuple[StructureTable, np.ndarray]:
    """A table that was filled in two steps, the second one first."""
    memory = np.zeros(table_bytes(len(batch), batch.total_atoms), np.uint8)
    table = StructureTable(memory, len(batch), batch.total_atoms)
    for start, stop in ((3, 7), (0, 3)):
        first_atom = int(batch.offsets[start])
        table.fill(start, first_atom, batch.slice(start, stop), TARGET[start:stop])
    return table, memory


def _assert_equal(got: StructureBatch, expected: StructureBatch) -> None:
    for name, field in FIELDS.items():
        wanted = getattr(expected, name) if field.packed else field.default
        np.testing.assert_array_equal(getattr(got, name), wanted, name)


def test_a_table_and_back() -> None:
    batch = _batch()
    again, target = _table(batch)[0].to_columns()
    _assert_equal(again, batch)
    np.testing.assert_array_equal(target, TARGET)


def test_pieces_of_a_table_are_a_table_of_their_structures() -> None:
    # Twice the same, in no order: what one node asks of another.
    batch = _batch()
    chosen = np.array([5, 0, 5, 3])
    counts = batch.num_atoms[chosen].astype(np.int64)
    starts, lengths = table_pieces(
        len(batch),
        batch.total_atoms,
        structures=chosen,
        first_atom=batch.offsets[chosen],
        counts=counts,
    )
    memory = _table(batch)[1]
    pieces = [memory[s : s + n] for s, n in zip(starts, lengths, strict=True)]
    table = StructureTable(np.concatenate(pieces), len(chosen), int(counts.sum()))
    again, target = table.to_columns()
    _assert_equal(again, batch.take(chosen))
    np.testing.assert_array_equal(target, TARGET[chosen])


@pytest.mark.parametrize("chosen", [[5, 0, 5, 3], [], [6], list(range(7))])
def test_segments_are_the_atoms_of_any_structures(chosen: list[int]) -> None:
    batch = _batch()
    segments = AtomSegments(batch.columns(), first_bytes(batch.offsets))
    taken = segments.take(np.array(chosen, dtype=np.int64))
    expected = batch.take(chosen)
    assert sorted(taken) == ["atomic_numbers", "forces", "positions"]
    for name, column in taken.items():
        np.testing.assert_array_equal(column, getattr(expected, name), name)
        # Collation hands them to torch, which warns of memory that cannot be written to.
        assert column.flags.writeable


@pytest.mark.parametrize("missing", [7, -1])
def test_there_is_no_structure_behind_the_last_nor_before_the_first(missing: int) -> None:
    batch = _batch()
    segments = AtomSegments(batch.columns(), first_bytes(batch.offsets))
    with pytest.raises(IndexError):
        segments.take(np.array([0, missing]))
