"""Copies of a geometry get one name, as a comparison of every pair would find."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from helpers import make_structures, rewrite
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlpar.core.structures import StructureBatch
from mtlpar.graph.fingerprint import TOLERANCE, fingerprints
from mtlpar.normalize import copies
from mtlpar.normalize.copies import components, name_geometries


def partition(names: np.ndarray) -> set[frozenset[int]]:
    """Rows that have one name."""
    return {frozenset(np.flatnonzero(names == name).tolist()) for name in np.unique(names)}


def compare_all(count: int, is_copy) -> set[frozenset[int]]:
    """The reference: look at every pair, and take copies of copies together."""
    owner = list(range(count))
    for i, j in itertools.combinations(range(count), 2):
        if is_copy(i, j):
            owner = [owner[i] if of == owner[j] else of for of in owner]
    return partition(np.array(owner))


def ids(count: int) -> np.ndarray:
    return np.random.default_rng(5).permutation(count).astype(np.uint64) + np.uint64(10)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_names_are_those_of_a_comparison_of_all_pairs(seed: int) -> None:
    # Few centres, some just beside borders of boxes and around zero, and members on both sides of
    # the tolerance in one word.
    rng = np.random.default_rng(seed)
    centres = rng.integers(1, 4, (6, 4)) * 1024 + rng.choice([-8, 0, 7, 100], (6, 4))
    words = np.empty((40, 5), np.int64)
    words[:, 0] = rng.integers(1, 3, 40)
    words[:, 1:] = centres[rng.integers(0, 6, 40)]
    step = rng.choice([0, 3, TOLERANCE, TOLERANCE + 1], 40) * rng.choice([-1, 1], 40)
    words[np.arange(40), rng.integers(1, 5, 40)] += step
    expected = compare_all(
        40,
        lambda i, j: words[i, 0] == words[j, 0] and np.abs(words[i] - words[j]).max() <= TOLERANCE,
    )
    assert partition(name_geometries(words.astype(np.uint32), ids(40))) == expected


def _distances(batch: StructureBatch, index: int) -> np.ndarray:
    """Elements and distances of all pairs within 6 Å, images included, in order: from ASE."""
    one = batch.slice(index, index + 1)
    atoms = Atoms(one.atomic_numbers, one.positions, cell=one.cell[0], pbc=one.pbc[0] != 0)
    receiver, sender, distance = neighbor_list("ijd", atoms, 6.0)
    rows = np.column_stack([atoms.numbers[receiver], atoms.numbers[sender], distance.round(4)])
    return rows[np.lexsort(rows.T[::-1])]


def _mixture() -> StructureBatch:
    """Molecules and crystals, each rewritten twice, and once with one atom moved by 0.01 Å."""
    molecules, crystals = make_structures(8, seed=4), make_structures(6, seed=5)
    crystals.cell[:] = np.float32([[7, 0, 0], [1, 8, 0], [0, 2, 6]])
    crystals.pbc[:] = 1
    plain = StructureBatch.concatenate([molecules, crystals])
    shaken = plain.columns()
    shaken["positions"] = plain.positions.copy()
    shaken["positions"][plain.offsets[:-1]] += np.float32([0.006, -0.006, 0.005])
    every = {"moved": True, "turned": True, "reordered": True, "wrapped": True}
    rewritten = [rewrite(plain, seed=seed, **every) for seed in (0, 1)]
    return StructureBatch.concatenate([plain, *rewritten, StructureBatch(shaken)])


def test_copies_are_those_with_equal_distances() -> None:
    batch = _mixture()
    lists = [_distances(batch, index) for index in range(len(batch))]

    def is_copy(i: int, j: int) -> bool:
        return lists[i].shape == lists[j].shape and np.abs(lists[i] - lists[j]).max() < 5e-4

    expected = compare_all(len(batch), is_copy)
    # Three of each of the fourteen, and the shaken ones alone.
    assert sorted(map(len, expected)) == [1] * 14 + [3] * 14
    columns = batch.columns()
    del columns["structure_id"]
    batch = StructureBatch.from_labels(**columns)
    assert partition(name_geometries(fingerprints(batch), batch.structure_id)) == expected


def test_names_depend_neither_on_order_nor_on_what_is_compared_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    words = np.repeat(rng.integers(1, 2**20, (50, 5)), 3, axis=0)
    words[:, 1:] += rng.integers(0, TOLERANCE // 2, (150, 4))
    words, names = words.astype(np.uint32), ids(150)
    expected = name_geometries(words, names)
    assert len(np.unique(expected)) == 50
    # The smallest hash of each, so that the name means the same in any order.
    np.testing.assert_array_equal(expected[::3], names.reshape(50, 3).min(axis=1))
    order = rng.permutation(150)
    np.testing.assert_array_equal(name_geometries(words[order], names[order]), expected[order])
    monkeypatch.setattr(copies, "_BUCKET", 7)
    np.testing.assert_array_equal(name_geometries(words, names), expected)


def test_structures_without_a_fingerprint_have_no_copies() -> None:
    names = ids(4)
    np.testing.assert_array_equal(name_geometries(np.zeros((4, 5), np.uint32), names), names)
    assert len(name_geometries(np.zeros((0, 5), np.uint32), names[:0])) == 0


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_parts_hang_together_and_nothing_else_does(links: list[tuple[int, int]]) -> None:
    left, right = (np.array([pair[end] for pair in links], np.int64) for end in (0, 1))
    wanted = {frozenset(pair) for pair in links}
    expected = compare_all(30, lambda i, j: frozenset((i, j)) in wanted)
    found = components(30, left, right)
    assert partition(found) == expected
    assert (found <= np.arange(30)).all()
