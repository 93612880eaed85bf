"""Splits never leak and never depend on order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlpar.core.hashing import mix64
from mtlpar.normalize.residuals import above_lowest, find_two_levels
from mtlpar.normalize.split import (
    TEST,
    TRAIN,
    VAL,
    assign_splits,
    find_contradictions,
    first_of_duplicates,
    split_blocks,
)


def _groups(count: int, members: int = 4) -> np.ndarray:
    return np.repeat(mix64(np.arange(count, dtype=np.uint64)), members)


def _none(group: np.ndarray) -> np.ndarray:
    return np.full(len(group), -1, dtype=np.int8)


def _split(group: np.ndarray, **changes: object) -> np.ndarray:
    options = {"val_fraction": 0.1, "test_fraction": 0.1, "seed": 0, **changes}
    return assign_splits(group, _none(group), **options)  # type: ignore[arg-type]


def test_all_members_of_a_group_share_a_split() -> None:
    split = _split(_groups(500)).reshape(500, 4)
    assert (split == split[:, :1]).all()


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_split_of_a_structure_does_not_depend_on_the_order_of_the_rows(random: object) -> None:
    group = _groups(60)
    order = np.arange(len(group))
    random.shuffle(order)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(_split(group[order]), _split(group)[order])


def test_split_of_a_group_does_not_change_when_others_come_or_go() -> None:
    group = _groups(1000)
    np.testing.assert_array_equal(_split(group[:2000]), _split(group)[:2000])


def test_fractions_are_respected_and_the_seed_matters() -> None:
    group = _groups(20_000, members=1)
    split = _split(group, val_fraction=0.05, test_fraction=0.2)
    assert np.mean(split == VAL) == pytest.approx(0.05, abs=0.01)
    assert np.mean(split == TEST) == pytest.approx(0.2, abs=0.01)
    assert (split != _split(group, val_fraction=0.05, test_fraction=0.2, seed=1)).any()


def test_official_splits_win_over_hashes() -> None:
    group = _groups(100)
    official = np.repeat(np.arange(100) % 3, 4).astype(np.int8)
    got = assign_splits(group, official, val_fraction=0.5, test_fraction=0.4, seed=0)
    np.testing.assert_array_equal(got, official)


def test_a_group_in_two_official_splits_is_refused() -> None:
    with pytest.raises(ValueError, match="two official splits"):
        assign_splits(
            np.array([7, 7], dtype=np.uint64),
            np.array([0, 2], dtype=np.int8),
            val_fraction=0.1,
            test_fraction=0.1,
            seed=0,
        )


@pytest.mark.parametrize("count", [3, 4, 7])
def test_few_groups_still_fill_every_split(count: int) -> None:
    # By hash alone, three groups at five per cent each would nearly always leave test empty.
    split = _split(_groups(count), val_fraction=0.05, test_fraction=0.05)
    assert set(split.tolist()) == {TRAIN, VAL, TEST}


def test_the_last_group_of_train_fills_no_other_split() -> None:
    assert (_split(_groups(1), val_fraction=0.05, test_fraction=0.05) == TRAIN).all()


def test_one_copy_of_each_duplicate_stays_whatever_the_order() -> None:
    identity = np.array([5, 9, 5, 5, 2], dtype=np.uint64)
    group = np.array([30, 1, 10, 20, 1], dtype=np.uint64)
    energy = np.array([0.0, 0.0, -1.0, 0.0, 0.0])
    labels = np.full(5, 2)
    keep = first_of_duplicates(identity, identity, group, energy, labels)
    # The copy in the group with the smallest hash, so that file order does not decide the split.
    assert keep.tolist() == [False, True, True, False, True]
    order = np.array([3, 2, 4, 0, 1])
    moved = first_of_duplicates(
        identity[order], identity[order], group[order], energy[order], labels[order]
    )
    np.testing.assert_array_equal(moved, keep[order])


def test_of_copies_in_one_group_the_energy_decides() -> None:
    # Else the first in file order would stay, and a renamed file change the labels.
    identity, group = np.full(3, 5, dtype=np.uint64), np.full(3, 1, dtype=np.uint64)
    for order in itertools.permutations((-3.0, -1.0, 7.0)):
        energy = np.array(order)
        keep = first_of_duplicates(identity, identity, group, energy, np.full(3, 2))
        assert energy[keep].tolist() == [-3.0]


def test_of_copies_the_one_with_most_labels_stays() -> None:
    # A missing energy is stored as zero, which would be the lowest of a positive set, and the group
    # with the smallest hash may hold the copy that teaches least.
    identity, group = np.full(3, 5, dtype=np.uint64), np.array([1, 2, 3], dtype=np.uint64)
    keep = first_of_duplicates(
        identity, identity, group, np.array([0.0, 4.0, 3.0]), np.array([1, 2, 1])
    )
    assert keep.tolist() == [False, True, False]


def test_blocks_cut_each_group_in_the_order_of_its_frames() -> None:
    # Two trajectories whose frames alternate in the file, and one too short to be cut.
    group = np.array([1, 2] * 10 + [3, 3], dtype=np.uint64)
    split = split_blocks(group, val_fraction=0.2, test_fraction=0.3)
    for name in (1, 2):
        assert split[group == name].tolist() == [TRAIN] * 5 + [VAL] * 2 + [TEST] * 3
    assert split[group == 3].tolist() == [TRAIN, TRAIN]


@settings(max_examples=50)
@given(size=st.integers(3, 40), val=st.floats(0.01, 0.6), test=st.floats(0.01, 0.39))
def test_blocks_leave_no_split_of_a_long_enough_group_empty(size, val, test) -> None:
    split = split_blocks(np.zeros(size, np.uint64), val_fraction=val, test_fraction=test)
    assert set(split.tolist()) == {TRAIN, VAL, TEST}


def test_copies_with_other_energies_are_named_once_each() -> None:
    identity = np.array([5, 9, 5, 5, 2, 9, 7, 7], dtype=np.uint64)
    energy = np.array([0.0, 1.0, 0.5, 9.0, 2.0, 1.0005, 4.0, 4.0])
    assert find_contradictions(identity, energy, limit_ev_per_atom=1e-3).tolist() == [5]
    assert find_contradictions(identity, energy, limit_ev_per_atom=1e-4).tolist() == [5, 9]
    assert find_contradictions(identity[:2], energy[:2], limit_ev_per_atom=1e-3).tolist() == []


def test_two_levels_of_theory_are_told_apart_from_one_and_from_outliers() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(scale=0.1, size=200)
    found = find_two_levels(np.concatenate([one, rng.normal(scale=0.1, size=30) - 5.0]))
    assert found is not None
    assert found.sizes == (30, 200)
    assert found.distance_ev_per_atom == pytest.approx(5.0, abs=0.1)
    # A few structures far from equilibrium, heavy tails and a broad distribution are one level.
    assert find_two_levels(np.concatenate([one, [9.0, 9.1, 9.2]])) is None
    assert find_two_levels(rng.standard_t(2, size=500)) is None
    assert find_two_levels(rng.uniform(-5, 5, size=60)) is None
    assert find_two_levels(one[:6]) is None


def test_two_levels_are_told_apart_where_references_hide_them() -> None:
    # Molecules of one level and of both, in unequal shares: references take up some of 500
    # eV/atom and smear the rest over more than 100 eV/atom, without a gap.
    rng = np.random.default_rng(1)
    composition = np.repeat(np.arange(40, dtype=np.uint64), 10)
    is_second = rng.random(400) < np.repeat(rng.random(40), 10)
    hidden = np.repeat(rng.uniform(-250, 250, size=40), 10)
    target = 500.0 * is_second + hidden + rng.normal(scale=0.1, size=400)
    assert find_two_levels(target) is None
    found = find_two_levels(above_lowest(target, composition))
    assert found is not None
    assert found.distance_ev_per_atom == pytest.approx(500.0, abs=0.5)
    # One level: a relaxed structure and one far above it, of each composition, are no two levels.
    pairs = np.ravel([[0.0, strained] for strained in rng.uniform(1.0, 1.1, size=40)])
    relaxed = above_lowest(pairs, np.repeat(np.arange(40, dtype=np.uint64), 2))
    assert len(relaxed) == 40
    assert find_two_levels(relaxed) is None
    assert len(above_lowest(np.empty(0), np.empty(0, np.uint64))) == 0
