"""Rows hold what columns hold."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import make_structures

from mtlpar.core.fields import FIELDS
from mtlpar.core.ragged import ragged_arange
from mtlpar.store.rows import ATOM_ROW, STRUCTURE_ROW, fill_rows, take_atoms, to_columns


def test_rows_and_back() -> None:
    batch = make_structures(7, seed=2)
    for name, field in FIELDS.items():
        # Every packed column gets values of its own, so that none can stand for another.
        if field.packed and name != "num_atoms":
            column = getattr(batch, name)
            column[...] = np.arange(column.size).reshape(column.shape) % 100
    structures = np.zeros(len(batch), STRUCTURE_ROW)
    atoms = np.zeros(batch.total_atoms, ATOM_ROW)
    target = np.linspace(-1, 1, 7)
    fill_rows(structures, atoms, batch, target)
    again, target_again = to_columns(structures, atoms)
    for name, field in FIELDS.items():
        expected = getattr(batch, name) if field.packed else field.default
        np.testing.assert_array_equal(getattr(again, name), expected, name)
    np.testing.assert_array_equal(target_again, target)


@pytest.mark.parametrize("length", [3, 80])
def test_atoms_of_short_and_long_structures_are_taken_alike(length: int) -> None:
    # Long structures are copied one by one, short ones atom by atom.
    atoms = np.zeros(1000, ATOM_ROW)
    atoms["positions"] = np.arange(3000).reshape(-1, 3)
    first, counts = np.array([500, 0, 910, 7]), np.array([length, length + 5, 0, length])
    taken = take_atoms(atoms, first, counts)
    np.testing.assert_array_equal(
        taken["positions"], atoms["positions"][ragged_arange(first, counts)]
    )


def test_no_structures_have_no_atoms() -> None:
    none = np.zeros(0, np.int64)
    assert len(take_atoms(np.zeros(5, ATOM_ROW), none, none)) == 0
