"""Who takes which structures of a step: all of them, once, and everybody about as much work."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlpar.parallel.deal import deal
from mtlpar.parallel.layout import ParallelLayout


def loads(work: np.ndarray, ranks: int) -> np.ndarray:
    """Work of each rank."""
    return np.bincount(deal(work, ranks), work, minlength=ranks)


def largest_first(work: np.ndarray, ranks: int) -> int:
    """Largest load if the largest item always goes to whoever has least, item by item."""
    heap = [0] * ranks
    for item in np.sort(work)[::-1].tolist():
        heapq.heapreplace(heap, heap[0] + item)
    return max(heap)


def structures(count: int, *, variation: float = 0.8, seed: int = 0) -> np.ndarray:
    """Lognormal sizes, as wide as MPtrj's by default: from a few edges to many thousands."""
    sigma = np.sqrt(np.log1p(variation**2))
    sizes = np.random.default_rng(seed).lognormal(0, sigma, count)
    return np.maximum(1, 600 * sizes).astype(np.uint32)


@given(work=st.lists(st.integers(0, 2**32 - 1), max_size=60), ranks=st.integers(1, 20))
@settings(max_examples=200)
def test_owners_of_a_branch_take_everything_once(work: list[int], ranks: int) -> None:
    items = np.array(work, dtype=np.uint32)
    owners = tuple(range(3, 3 + ranks))
    layout = ParallelLayout(3 + ranks, {"small": (0, 1, 2), "large": owners})
    taken = [layout.deal("large", rank, items).tolist() for rank in owners]
    assert sorted(index for share in taken for index in share) == list(range(len(items)))
    # In the order of the batch, so that one owner computes it as it is.
    assert all(share == sorted(share) for share in taken)


@given(work=st.lists(st.integers(1, 10_000), min_size=1, max_size=60), ranks=st.integers(1, 20))
@settings(max_examples=200)
def test_nobody_exceeds_the_mean_by_more_than_the_largest_structure(
    work: list[int], ranks: int
) -> None:
    load = loads(np.array(work), ranks)
    assert load.max() <= load.mean() + max(work)


@pytest.mark.parametrize(("ranks", "each"), [(2, 7), (3, 5), (16, 1), (320, 128)])
def test_structures_alike_are_dealt_by_number(ranks: int, each: int) -> None:
    load = loads(np.full(ranks * each, 17), ranks)
    assert (load == 17 * each).all()


@pytest.mark.parametrize("ranks", [2, 32, 320, 2000])
def test_the_slowest_of_many_ranks_is_within_a_thousandth_and_a_half_of_the_mean(
    ranks: int,
) -> None:
    work = structures(128 * ranks)
    load = loads(work, ranks)
    assert load.max() / load.mean() < 1.0015
    # Dealt by number the same batch would be tens of percent off.
    by_number = work.reshape(ranks, 128).sum(axis=1)
    assert ranks == 2 or by_number.max() / by_number.mean() > 1.1


@pytest.mark.parametrize("each", [8, 16, 30])
@pytest.mark.parametrize("seed", range(3))
def test_few_large_structures_a_rank_are_dealt_about_as_well_as_one_by_one(
    each: int, seed: int
) -> None:
    # At sixteen a rank the largest structure is nearly all that a rank should get: whoever has it
    # must take nothing else, and layers of too many structures would give it neighbours.
    work = structures(500 * each, seed=seed)
    best = max(largest_first(work, 500), work.sum() / 500)
    assert loads(work, 500).max() < 1.04 * best


def test_a_giant_has_a_rank_to_itself_and_the_others_share_evenly() -> None:
    # The level to which others fill up is theirs, without the giant.
    work = np.array([10, 10, 10, 10_000, 10, 10, 10])
    owner = deal(work, 3)
    assert (owner == owner[3]).sum() == 1
    assert sorted(loads(work, 3).tolist()) == [30, 30, 10_000]


def test_no_rank_gets_the_largest_of_every_kind() -> None:
    # Whoever gets few large ones in every step would hold fewer labels and more memory than others.
    counts = np.bincount(deal(structures(128 * 64), 64), minlength=64)
    assert counts.min() > 128 * 0.8
    assert counts.max() < 128 * 1.25


def test_work_of_nothing_and_no_work_are_dealt_too() -> None:
    assert deal(np.zeros(0, np.uint32), 4).tolist() == []
    assert set(deal(np.zeros(9, np.uint32), 4).tolist()) <= set(range(4))
