"""What the planner predicts, where it can be said beforehand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlpar.model.settings import EgnnSettings, HeadSettings, ModelSettings
from mtlpar.parallel.deal import deal
from mtlpar.plan.census import ModelCensus, take_census
from mtlpar.plan.machine import GENERIC_CPU, GENERIC_GPU, Link, Machine
from mtlpar.plan.network import Group, all_reduce_seconds
from mtlpar.plan.predict import PLANS, Plan, _loads, layout_of, predict
from mtlpar.plan.recommend import Choice, Question, fastest, ladder, nodes_for, recommend
from mtlpar.plan.workload import Dataset, Workload, make_branches

MODEL = ModelSettings(
    encoder=EgnnSettings(width=128, layers=1), head=HeadSettings(width=192, layers=3)
)
EQUAL = make_branches([Dataset("made_up", structures=1e6, atoms_per_structure=15.0)], 4)


@cache
def _census() -> ModelCensus:
    return take_census(MODEL)


def _predict(
    plan="mtl-par", *, ranks=8, branches=EQUAL, batch=128.0, machine=GENERIC_GPU, **options
):
    return predict(
        plan,
        machine=machine,
        census=_census(),
        workload=Workload(branches, batch),
        ranks=ranks,
        **options,
    )


@given(
    sizes=st.lists(st.floats(1e3, 1e7), min_size=1, max_size=9),
    ranks=st.integers(1, 40),
    batch=st.floats(1, 1e4),
    plan=st.sampled_from(PLANS),
    deal=st.sampled_from(["work", "count"]),
)
@settings(max_examples=60, deadline=None)
def test_every_structure_of_a_step_is_on_one_rank(sizes, ranks, batch, plan, deal) -> None:
    branches = {f"b{i}": Dataset(f"b{i}", size, 5.0 + i, 0.3) for i, size in enumerate(sizes)}
    workload = Workload(branches, batch)
    loads = _loads(layout_of(plan, workload, ranks, machine=GENERIC_CPU), workload, deal)
    structures = sum(load.count * load.mean.structures for load in loads)
    assert sum(load.count for load in loads) == ranks
    assert structures == pytest.approx(sum(map(workload.structures_per_step, branches)))
    for load in loads:
        # The slowest rank has no less to do than the mean of its kind.
        assert load.largest.structures >= load.mean.structures - 1e-9
        assert load.largest.edges >= load.mean.edges - 1e-6


@pytest.mark.parametrize("count", [2, 8, 16])
def test_memory_follows_the_formula_of_the_paper(count: int) -> None:
    branches = make_branches([Dataset("d", 1e6, 15.0)], count)
    encoder, branch = _census().encoder_parameters, _census().branch_parameters
    base = _predict("mtl-base", ranks=16, branches=branches).memory
    par = _predict("mtl-par", ranks=16, branches=branches).memory
    # Ps + Nh Ph against Ps + Ph, for weights and for the two moments of AdamW.
    assert base.parameters == 4 * (encoder + count * branch)
    assert par.parameters == 4 * (encoder + branch)
    assert (base.moments, par.moments) == (2 * base.parameters, 2 * par.parameters)


def test_one_rank_waits_for_nobody_and_all_layouts_are_one() -> None:
    predictions = [_predict(plan, ranks=1) for plan in PLANS]
    for prediction in predictions:
        assert prediction.step.exposed == prediction.step.encoder_reduction == 0
        assert prediction.step.imbalance == pytest.approx(0, abs=1e-12)
    assert len({prediction.step.total for prediction in predictions}) == 1


@pytest.mark.long
def test_reductions_behind_the_backward_pass_cost_less() -> None:
    # Several buckets: a single one is complete when the backward pass is over.
    large = ModelSettings(encoder=EgnnSettings(width=600, layers=1), head=HeadSettings(width=600))
    exposed = [
        predict(
            "mtl-base",
            machine=GENERIC_GPU.model_copy(update={"overlap": overlap}),
            census=take_census(large),
            workload=Workload(EQUAL, 128.0),
            ranks=8,
        ).step
        for overlap in (0.0, 0.5, 1.0)
    ]
    first, second, third = (step.exposed for step in exposed)
    assert first > second > third > 0
    assert first == pytest.approx(exposed[0].encoder_reduction + exposed[0].branch_reduction)


def test_uneven_groups_balance_uneven_datasets() -> None:
    # One dataset nine times the other: of ten ranks nine for the one, where equal groups give five.
    branches = {"large": Dataset("large", 9e6, 15.0), "small": Dataset("small", 1e6, 15.0)}
    even = _predict("mtl-par even", ranks=10, branches=branches, batch=1e5)
    uneven = _predict("mtl-par", ranks=10, branches=branches, batch=1e5)
    assert even.step.compute == pytest.approx(uneven.step.compute)
    # Five ranks carry nine tenths: 0.18 of the work each instead of 0.1.
    assert even.step.imbalance / even.step.compute == pytest.approx(0.8, rel=0.05)
    assert uneven.step.imbalance / uneven.step.compute < 0.02


@pytest.mark.parametrize(("ranks", "by_count"), [(32, 0.19), (320, 0.24), (2000, 0.28)])
def test_dealt_by_work_the_slowest_of_many_ranks_is_hardly_behind(ranks, by_count) -> None:
    # Sizes as wide as MPtrj's: sqrt(2 ln n) deviations of 0.8 / sqrt(128) by number.
    branches = {"mptrj": Dataset("mptrj", 1.6e6, 31.2, 0.8, edges_per_atom=20.0)}
    machine = GENERIC_GPU.model_copy(update={"max_nodes": ranks})
    step = {
        deal: _predict(
            ranks=ranks, branches=branches, batch=128.0 * ranks, machine=machine, deal=deal
        ).step
        for deal in ("count", "work")
    }
    assert step["count"].imbalance / step["count"].compute == pytest.approx(by_count, abs=0.02)
    assert 0 < step["work"].imbalance / step["work"].compute < 0.003


def test_a_rank_of_all_branches_balances_few_structures_of_one_by_those_of_others() -> None:
    # Two crystals a rank, some with more work than a rank should have of crystals, and many
    # molecules: dealt apart nobody could make up for who got the largest.
    crystals = Dataset("crystals", 2e4, 31.2, 0.8, edges_per_atom=20.0)
    molecules = Dataset("molecules", 1.26e6, 15.0, 0.3, edges_per_atom=13.0)
    branches = {"crystals": crystals, "molecules": molecules}
    step = _predict("mtl-base", ranks=64, branches=branches, batch=128.0 * 64).step
    assert step.imbalance / step.compute < 0.01


def test_groups_still_wait_for_the_branch_whose_batch_is_largest() -> None:
    # A group cannot give work to another: its batch of 128 structures deviates as a whole.
    wide = {f"b{i}": Dataset("made_up", 1e6, 15.0, 0.8) for i in range(8)}
    step = _predict("mtl-par", ranks=16, branches=wide, batch=8 * 128.0).step
    assert step.imbalance / step.compute > 0.05


def test_sharding_takes_memory_off_and_puts_communication_on() -> None:
    plain, sharded = _predict("mtl-par", ranks=16), _predict("mtl-par sharded", ranks=16)
    encoder = 4 * _census().encoder_parameters
    assert plain.memory.moments - sharded.memory.moments == pytest.approx(2 * encoder * 3 / 4)
    assert sharded.step.encoder_reduction > plain.step.encoder_reduction


def test_what_shards_of_a_layer_take_may_be_stated_apart_from_other_messages() -> None:
    # Eight times the latency and an eighth of the bandwidth of the node's link.
    link = GENERIC_CPU.intra_node
    slow = Link(latency_us=8 * link.latency_us, gb_per_s=link.gb_per_s / 8)
    node = GENERIC_CPU.model_copy(update={"max_nodes": 1})
    before, after = (
        _predict("mtl-par sharded", ranks=8, machine=machine).step.encoder_reduction
        for machine in (node, node.model_copy(update={"shards": slow}))
    )
    assert after == pytest.approx(8 * before)
    plain = _predict("mtl-par", ranks=8, machine=node).step
    assert (
        plain == _predict("mtl-par", ranks=8, machine=node.model_copy(update={"shards": slow})).step
    )


def test_more_nodes_than_a_machine_has_are_refused() -> None:
    few = GENERIC_GPU.model_copy(update={"max_nodes": 2})
    with pytest.raises(ValueError, match=r"9 ranks need 3 nodes.*at most 2"):
        _predict(ranks=9, machine=few)


def test_ranks_without_a_core_take_turns() -> None:
    laptop = GENERIC_CPU.model_copy(update={"max_nodes": 1, "ranks_per_node": 2})
    steps = {ranks: _predict(ranks=ranks, machine=laptop).step for ranks in (2, 4)}
    # The same batch on twice the ranks takes the same two cores as long, and a little more for
    # the operations that every rank starts; counts of small batches are right to 15 %. Ranks with
    # cores of their own would halve it.
    assert 0.85 < steps[4].compute / steps[2].compute < 1.2


def test_the_ring_of_two_nodes_by_hand() -> None:
    machine = GENERIC_GPU.model_copy(
        update={
            "ranks_per_node": 2,
            "intra_node": Link(latency_us=1, gb_per_s=10),
            "inter_node": Link(latency_us=5, gb_per_s=4),
        }
    )
    # 8 MB on 2 x 2 ranks. Inside: twice (1 us + 4 MB at 10 GB/s) = 802 us. Between: each rank sends
    # 4 MB twice halved at 2 GB/s, its half of the node's 4 GB/s: 2 x 5 us + 2000 us = 2010 us.
    seconds = all_reduce_seconds(Group.of(4, machine), 8e6, machine)
    assert seconds == pytest.approx(802e-6 + 2010e-6)
    assert all_reduce_seconds(Group.of(1, machine), 8e6, machine) == 0


def test_trees_beat_rings_for_small_messages_on_many_nodes() -> None:
    rounds = all_reduce_seconds(Group.of(4096, GENERIC_GPU), 4.0, GENERIC_GPU)
    # A ring over 1024 nodes would start 2046 messages, a tree 20.
    latency = GENERIC_GPU.inter_node.latency_us * 1e-6
    assert 20 * latency < rounds < 30 * latency


def _recommend(
    model: ModelSettings, world_size: int, batch: float = 512.0, machine: Machine = GENERIC_GPU
) -> Choice:
    return recommend(
        model=model, branches=EQUAL, batch_structures=batch, world_size=world_size, machine=machine
    )


@pytest.mark.long
def test_heavy_branches_are_given_ranks_of_their_own() -> None:
    heavy = ModelSettings(
        encoder=EgnnSettings(width=64, layers=1), head=HeadSettings(width=2048, layers=3)
    )
    assert _recommend(heavy, 8) == Choice("mtl-par")


@pytest.mark.long
def test_ranks_that_cannot_be_dealt_evenly_speak_for_mtl_base() -> None:
    # Four equal branches on five ranks: three branches' ranks wait for nothing but the fourth.
    light = ModelSettings(
        encoder=EgnnSettings(width=256, layers=1), head=HeadSettings(width=16, layers=1)
    )
    assert _recommend(light, 5, batch=4000.0) == Choice("mtl-base")


def test_an_encoder_is_spread_only_where_it_fits_no_other_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The encoder of a billion parameters in forty layers, with the activations of a small one.
    deep = replace(_census(), encoder_parameters=10**9, layers=40)
    monkeypatch.setattr("mtlpar.plan.recommend.take_census", lambda _: deep)
    workload = Workload(EQUAL, 8.0)
    memory = {
        plan: predict(plan, machine=GENERIC_GPU, census=deep, workload=workload, ranks=8)
        .memory.device / 2**30
        for plan in PLANS
    }  # fmt: skip

    def choice(gib: float) -> Choice:
        machine = GENERIC_GPU.model_copy(update={"device_memory_gib": gib})
        return _recommend(MODEL, 8, batch=8.0, machine=machine)

    assert choice(1.01 * memory["mtl-base"]).encoder_shards == 1
    # The four ranks of a node hold it together.
    assert choice(0.9 * memory["mtl-par"]) == Choice("mtl-par", 4)
    # Where it would not help either, it is not done: activations can be cut by other means.
    assert choice(0.9 * memory["mtl-par sharded"]).encoder_shards == 1


@given(nodes=st.integers(1, 40), per_node=st.integers(1, 12))
def test_shards_of_an_encoder_never_lie_on_two_nodes(nodes: int, per_node: int) -> None:
    # Six ranks on nodes of four: groups of three would gather over the network between nodes.
    machine = GENERIC_GPU.model_copy(update={"ranks_per_node": per_node})
    for ranks in {nodes * per_node, max(1, nodes * per_node - 2)}:
        workload = Workload(EQUAL, batch_structures=64)
        shards = layout_of("mtl-par sharded", workload, ranks, machine=machine).encoder_shards
        groups = [range(first, first + shards) for first in range(0, ranks, shards)]
        assert all(group[0] // per_node == group[-1] // per_node for group in groups)


def test_what_does_not_fit_is_not_recommended() -> None:
    small = GENERIC_GPU.model_copy(update={"device_memory_gib": 0.05})
    question = Question(
        machine=small, model=MODEL, datasets=list(EQUAL.values()), branches=64, batch_per_rank=1
    )
    base, *others = question.compare(64)
    assert not base.fits
    assert fastest([base, *others]).fits


def test_nodes_are_the_fewest_that_reach_the_wanted_time() -> None:
    question = Question(
        machine=GENERIC_GPU, model=MODEL, datasets=list(EQUAL.values()), branches=4,
        batch_per_rank=64,
    )  # fmt: skip
    found = nodes_for(question, max_ranks=256, epoch_hours=0.02)
    assert found is not None
    assert found.epoch_seconds <= 72
    # Not in doublings: a node less would not do.
    smaller = fastest(question.compare(found.ranks - GENERIC_GPU.ranks_per_node))
    assert smaller.epoch_seconds > 72
    limit = (found.epoch_seconds + smaller.epoch_seconds) / 2 / 3600
    assert nodes_for(question, max_ranks=256, epoch_hours=limit).nodes == found.nodes
    assert nodes_for(question, max_ranks=256, epoch_hours=1e-9) is None
    assert nodes_for(question, max_ranks=256).ranks > found.ranks


@given(limit=st.integers(1, 5000))
def test_the_ladder_ends_at_the_limit(limit: int) -> None:
    steps = ladder(GENERIC_GPU, limit)
    assert steps[-1] == min(limit, GENERIC_GPU.max_ranks)
    assert steps == sorted(set(steps))
    assert all(math.isclose(b / a, 2) for a, b in itertools.pairwise(steps[:-1]))


@pytest.mark.long
def test_a_million_ranks_are_planned_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    # As many structures a rank leave as much uneven: beyond a million structures fewer ranks are
    # asked, and nothing else is done for each rank in Python.
    branches = make_branches([Dataset("made_up", 1e10, 15.0, 0.3), Dataset("other", 3e9, 9.0)], 4)
    dealt = []
    monkeypatch.setattr(
        "mtlpar.plan.deal.deal", lambda work, ranks: dealt.append(len(work)) or deal(work, ranks)
    )
    machine = GENERIC_GPU.model_copy(update={"max_nodes": 250_000})
    for plan in PLANS:
        few, many = (
            _predict(plan, ranks=ranks, branches=branches, batch=128.0 * ranks, machine=machine)
            for ranks in (1_024, 1_000_000)
        )
        assert many.step.compute == pytest.approx(few.step.compute, rel=0.02)
        waits = (one.step.imbalance / one.step.compute for one in (few, many))
        assert next(waits) == pytest.approx(next(waits), abs=0.01)
        assert many.memory.device == pytest.approx(few.memory.device, rel=0.05)
    assert max(dealt) <= 2**20


@pytest.mark.long
def test_the_fewest_of_thousands_of_nodes_are_found_without_trying_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    compare = Question.compare
    monkeypatch.setattr(
        Question, "compare", lambda self, ranks: asked.append(ranks) or compare(self, ranks)
    )
    machine = GENERIC_GPU.model_copy(update={"max_nodes": 9_000})
    question = Question(
        machine=machine,
        model=MODEL,
        datasets=[Dataset("made_up", 1e9, 15.0)],
        branches=1,
        batch_per_rank=16,
    )
    most = fastest(compare(question, machine.max_ranks)).epoch_seconds
    found = nodes_for(question, max_ranks=machine.max_ranks, epoch_hours=1.5 * most / 3600)
    assert found is not None
    assert 4_096 < found.nodes < 9_000
    assert found.epoch_seconds <= 1.5 * most
    before = fastest(compare(question, found.ranks - machine.ranks_per_node))
    assert before.epoch_seconds > 1.5 * most
    assert len(asked) < 100


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("ranks", [1, 3, 8, 40])
def test_the_store_of_a_node_by_hand(plan: Plan, ranks: int) -> None:
    branches = make_branches([Dataset("a", 1e6, 15.0), Dataset("b", 3e6, 9.0)], 5)
    workload = Workload(branches, 64.0)
    layout = layout_of(plan, workload, ranks, machine=GENERIC_GPU)
    nodes = [0.0] * GENERIC_GPU.nodes(ranks)
    for branch, owners in layout.owners.items():
        for rank in owners:
            nodes[rank // GENERIC_GPU.ranks_of_node(ranks)] += branches[branch].pack_bytes / len(
                owners
            )
    found = _predict(plan, ranks=ranks, branches=branches, batch=64.0)
    assert found.memory.store_per_node == pytest.approx(max(nodes), rel=1e-12)
