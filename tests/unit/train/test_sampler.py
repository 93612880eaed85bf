"""An epoch visits every structure exactly once, whatever the sizes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mtlpar.train.sampler import EpochPlan

sizes = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 300), min_size=1)


@given(sizes, st.integers(1, 64), st.integers(0, 3))
def test_each_structure_is_seen_once_per_epoch(
    num_structures: dict[str, int], batch: int, epoch: int
) -> None:
    plan = EpochPlan(num_structures, batch, seed=0)
    for dataset, count in num_structures.items():
        order = plan.order(dataset, epoch)
        steps = [plan.bounds(dataset, step) for step in range(plan.steps)]
        seen = np.concatenate([order[start:stop] for start, stop in steps])
        assert sorted(seen.tolist()) == list(range(count))
        # Dealt evenly: no step is more than one structure richer than another.
        lengths = {stop - start for start, stop in steps}
        assert max(lengths) - min(lengths) <= 1


@given(sizes, st.integers(1, 64))
def test_no_step_exceeds_the_batch(num_structures: dict[str, int], batch: int) -> None:
    plan = EpochPlan(num_structures, batch, seed=0)
    for dataset in num_structures:
        bounds = [plan.bounds(dataset, step) for step in range(plan.steps)]
        assert max(stop - start for start, stop in bounds) <= batch


def test_order_changes_with_epoch_and_dataset_but_not_between_runs() -> None:
    plan = EpochPlan({"a": 50, "b": 50}, 8, seed=3)
    again = EpochPlan({"a": 50, "b": 50}, 8, seed=3)
    np.testing.assert_array_equal(plan.order("a", 1)[:], again.order("a", 1)[:])
    assert (plan.order("a", 0)[:] != plan.order("a", 1)[:]).any()
    assert (plan.order("a", 0)[:] != plan.order("b", 0)[:]).any()


@given(sizes, st.floats(1.0, 50.0))
def test_temperature_repeats_small_datasets_and_never_skips_a_structure(
    num_structures: dict[str, int], temperature: float
) -> None:
    plan = EpochPlan(num_structures, 8, seed=0, temperature=temperature)
    largest = max(num_structures, key=lambda name: num_structures[name])
    assert plan.num_samples[largest] == num_structures[largest]
    for dataset, count in num_structures.items():
        visits = np.bincount(plan.order(dataset, 0)[:], minlength=count)
        # Nothing is left out for the sake of another dataset, and repeats are spread evenly.
        assert visits.min() >= 1
        assert visits.max() - visits.min() <= 1


def test_passes_per_epoch_are_what_was_asked_for_and_reach_all_structures_in_time() -> None:
    plan = EpochPlan({"a": 100, "b": 40}, 10, seed=0, passes={"a": 0.25, "b": 2.5})
    assert plan.num_samples == {"a": 25, "b": 100}
    seen = {int(index) for epoch in range(40) for index in plan.order("a", epoch)[:]}
    # A quarter of a in each epoch, another quarter each time.
    assert len(set(plan.order("a", 0)[:].tolist())) == 25
    assert len(seen) == 100
    assert np.bincount(plan.order("b", 0)[:]).tolist().count(3) == 20
