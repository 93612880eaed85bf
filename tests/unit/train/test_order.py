"""An epoch's order is fixed by the data alone, and any stretch of it is known by itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mtlpar.train.order import EpochOrder
from mtlpar.train.sampler import EpochPlan

blocks = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def _order(sizes: list[int], samples: int, window: int, seed: int = 5) -> EpochOrder:
    return EpochOrder(np.cumsum([0, *sizes]), samples, window=window, seed=seed)


@given(blocks, st.floats(0.1, 3.0), st.integers(1, 60), st.data())
def test_every_structure_comes_once_before_any_comes_twice(
    sizes: list[int], passes: float, window: int, data: st.DataObject
) -> None:
    count = sum(sizes)
    samples = max(1, round(passes * count))
    order = _order(sizes, samples, window)
    whole = order[:]
    assert len(whole) == len(order) == samples
    for start in range(0, samples, count):
        visited = whole[start : start + count]
        assert len(set(visited.tolist())) == len(visited)
    # A resumed epoch starts anywhere and has seen nothing before.
    start = data.draw(st.integers(0, samples))
    stop = data.draw(st.integers(start, samples))
    np.testing.assert_array_equal(_order(sizes, samples, window)[start:stop], whole[start:stop])


@given(blocks, st.floats(0.1, 3.0), st.integers(1, 60))
def test_windows_are_whole_blocks_of_bounded_size(
    sizes: list[int], passes: float, window: int
) -> None:
    order = _order(sizes, max(1, round(passes * sum(sizes))), window)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    for number, members in enumerate(order.windows):
        assert sum(sizes[block] for block in members) <= max(window, max(sizes))
        visits = order.visits(number)
        assert sorted(visits.tolist()) == np.flatnonzero(np.isin(owner, members)).tolist()
        # Each is needed: nothing is read for the sake of an epoch that ends before.
        assert order.starts[number] < len(order)
        assert order.windows_of(order.starts[number], order.starts[number] + 1) == range(
            number, number + 1
        )


def test_blocks_meet_others_in_every_epoch() -> None:
    plan = EpochPlan({"a": 80}, 8, seed=0, blocks={"a": [10] * 8}, window=20)
    pairs = {
        tuple(window.tolist()) for epoch in range(6) for window in plan.order("a", epoch).windows
    }
    assert all(len(pair) == 2 for pair in pairs)
    assert len(pairs) > 12


def test_a_dataset_that_is_one_window_comes_in_the_order_it_always_had() -> None:
    # Trainings of the same seed stay the same: this is where the order of small datasets is fixed.
    order = _order([4, 3, 5], 12, window=12, seed=77)
    np.testing.assert_array_equal(order[:], np.random.default_rng(77).permutation(12))


@given(st.integers(1, 50), st.integers(1, 90), st.integers(1, 12))
def test_a_position_belongs_to_the_step_whose_bounds_hold_it(
    small: int, large: int, batch: int
) -> None:
    plan = EpochPlan({"a": small, "b": large}, batch, seed=0)
    for position in range(small):
        start, stop = plan.bounds("a", plan.step_of("a", position))
        assert start <= position < stop
