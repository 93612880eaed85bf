"""Columns keep what belongs together and refuse what does not."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import make_structures
from hypothesis import given
from hypothesis import strategies as st

from mtlpar.core.fields import FIELDS
from mtlpar.core.structures import StructureBatch, content_hash, identity_of, segment_sum


def test_take_returns_each_structure_with_its_own_atoms() -> None:
    # Different sizes, so that a wrong offset mixes atoms of neighbours.
    batch = make_structures(20, seed=3)
    taken = batch.take([7, 3, 7])
    for position, original in enumerate([7, 3, 7]):
        expected = batch.slice(original, original + 1)
        got = taken.slice(position, position + 1)
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


@given(st.lists(st.integers(0, 19), max_size=30))
def test_take_equals_concatenated_slices_for_any_choice(chosen: list[int]) -> None:
    batch = make_structures(20, seed=3)
    expected = StructureBatch.concatenate(batch.slice(i, i + 1) for i in chosen)
    got = batch.take(chosen)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


def test_wrong_number_of_atoms_is_refused_with_both_shapes() -> None:
    columns = make_structures(2, seed=0).columns()
    columns["positions"] = columns["positions"][:-1]
    with pytest.raises(ValueError, match=r"'positions' has shape .* expected"):
        StructureBatch(columns)


def test_unknown_and_missing_columns_are_refused_by_name() -> None:
    columns = make_structures(2, seed=0).columns()
    with pytest.raises(ValueError, match="no field is called 'dipole'"):
        StructureBatch({**columns, "dipole": np.zeros(2)})
    del columns["forces"]
    with pytest.raises(ValueError, match="lacks the columns forces"):
        StructureBatch(columns)


def _hash_of(**changes: np.ndarray) -> int:
    base = {
        "num_atoms": np.array([2]),
        "atomic_numbers": np.array([1, 8]),
        "positions": np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
        "energy": np.array([1.0]),
        "forces": np.zeros((2, 3)),
        "group": np.array([5]),
    }
    return int(StructureBatch.from_labels(**{**base, **changes}).structure_id[0])


def test_content_hash_ignores_labels_and_group_but_nothing_else() -> None:
    reference = _hash_of()
    assert _hash_of(energy=np.array([2.0]), group=np.array([6])) == reference
    assert _hash_of(positions=np.array([[-0.0, 0, 0], [1, 0, 0]])) == reference
    changed = [
        _hash_of(atomic_numbers=np.array([8, 1])),
        _hash_of(positions=np.array([[0, 0, 0], [1 + 1e-6, 0, 0]])),
        _hash_of(positions=np.array([[0, 0, 0], [0, 1.0, 0]])),
        _hash_of(charge=np.array([1])),
        _hash_of(spin=np.array([3])),
        _hash_of(pbc=np.ones((1, 3)), cell=np.eye(3)[None]),
        _hash_of(cell=np.eye(3)[None]),
    ]
    assert len({reference, *changed}) == len(changed) + 1


def test_the_identity_that_a_reader_gave_is_found_again() -> None:
    # Copies that are written differently have other hashes, and must not lose what parts them.
    columns = make_structures(3, seed=1).columns()
    del columns["structure_id"]
    identity = np.array([0, 77, 2**63 + 5], np.uint64)
    batch = StructureBatch.from_labels(**columns, identity=identity)
    np.testing.assert_array_equal(identity_of(batch), identity)
    assert (batch.structure_id != content_hash(batch)).tolist() == [False, True, True]


def test_content_hash_does_not_depend_on_the_batch_around_a_structure() -> None:
    batch = make_structures(12, seed=1)
    alone = [content_hash(batch.slice(i, i + 1))[0] for i in range(12)]
    np.testing.assert_array_equal(content_hash(batch), alone)


def test_segment_sum_of_structures_without_atoms_is_zero() -> None:
    sums = segment_sum(np.array([1, 2, 3]), np.array([0, 2, 0, 1, 0], dtype=np.int32))
    assert sums.tolist() == [0, 3, 0, 3, 0]


def test_segment_sum_of_nothing_but_structures_without_atoms_is_zero() -> None:
    # A file of one empty frame is a whole block without a row.
    sums = segment_sum(np.zeros((0, 2), np.int64), np.array([0, 0], dtype=np.int32))
    np.testing.assert_array_equal(sums, np.zeros((2, 2)))
