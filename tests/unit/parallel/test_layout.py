"""Every branch has an owner, every rank has work, every sample is dealt once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlpar.parallel.layout import ParallelLayout

costs = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.floats(0, 1e9), min_size=1, max_size=8
)


@given(costs, st.integers(1, 64))
def test_mtl_par_gives_every_branch_an_owner_and_every_rank_a_branch(
    cost: dict[str, float], world_size: int
) -> None:
    layout = ParallelLayout.build("mtl-par", cost=cost, world_size=world_size)
    assert list(layout.owners) == list(cost)
    used = [rank for ranks in layout.owners.values() for rank in ranks]
    if world_size >= len(cost):
        # Disjoint groups that use all ranks.
        assert sorted(used) == list(range(world_size))
    else:
        assert len(used) == len(cost)
        assert set(used) == set(range(world_size))
    for rank in range(world_size):
        assert layout.branches_of(rank)


@given(costs, st.integers(1, 16), st.integers(0, 40))
def test_owners_share_a_batch_without_loss_or_repetition(
    cost: dict[str, float], world_size: int, items: int
) -> None:
    for kind in ("mtl-par", "mtl-base"):
        layout = ParallelLayout.build(kind, cost=cost, world_size=world_size)
        for branch, ranks in layout.owners.items():
            dealt = [i for rank in ranks for i in range(items)[layout.share(branch, rank, items)]]
            assert sorted(dealt) == list(range(items))


def test_ranks_follow_cost_without_starving_anyone() -> None:
    # The reference's rounding gives the first or the last dataset no rank for these sizes.
    sizes = {"ani1x": 5.0, "qm7x": 4.2, "mptrj": 1.6, "alexandria": 4.0, "transition1x": 9.6}
    for world_size in (5, 6, 7, 12):
        layout = ParallelLayout.build("mtl-par", cost=sizes, world_size=world_size)
        counts = {branch: len(ranks) for branch, ranks in layout.owners.items()}
        assert min(counts.values()) >= 1
        assert counts["transition1x"] == max(counts.values())


@given(costs, st.integers(1, 64))
def test_each_further_rank_goes_to_the_busiest_branch_the_first_among_equals(
    cost: dict[str, float], further: int
) -> None:
    sizes = dict.fromkeys(cost, 1)
    for _ in range(further):
        sizes[max(cost, key=lambda branch: cost[branch] / sizes[branch])] += 1
    layout = ParallelLayout.build("mtl-par", cost=cost, world_size=len(cost) + further)
    assert {branch: len(ranks) for branch, ranks in layout.owners.items()} == sizes


def test_mtl_base_gives_every_rank_every_branch() -> None:
    layout = ParallelLayout.build("mtl-base", cost={"a": 1, "b": 5}, world_size=3)
    assert all(layout.branches_of(rank) == ("a", "b") for rank in range(3))


def test_fewer_ranks_than_branches_balance_the_load() -> None:
    layout = ParallelLayout.build("mtl-par", cost={"a": 10, "b": 6, "c": 5, "d": 1}, world_size=2)
    load = [
        sum({"a": 10, "b": 6, "c": 5, "d": 1}[branch] for branch in layout.branches_of(rank))
        for rank in range(2)
    ]
    assert load == [11, 11]


def test_a_branch_without_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="branch 'b' has no rank"):
        ParallelLayout(1, {"a": (0,), "b": ()})


def test_an_idle_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="expected all of"):
        ParallelLayout(3, {"a": (0,), "b": (1,)})


def test_equal_groups_form_a_rectangle_and_others_do_not() -> None:
    assert ParallelLayout(4, {"a": (0, 1), "b": (2, 3)}).is_even
    assert not ParallelLayout(3, {"a": (0, 1), "b": (2,)}).is_even
    assert not ParallelLayout(2, {"a": (0, 1), "b": (0, 1)}).is_even


def test_ranks_that_do_not_divide_into_copies_of_the_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train.encoder_shards = 4 .* 6 ranks cannot"):
        ParallelLayout.build("mtl-base", cost={"a": 1.0}, world_size=6, encoder_shards=4)
    layout = ParallelLayout.build("mtl-par", cost={"a": 1, "b": 1}, world_size=4, encoder_shards=2)
    assert layout.describe() == "a: 0-1, b: 2-3; each encoder on 2 ranks"
