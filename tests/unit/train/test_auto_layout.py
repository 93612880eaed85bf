"""`layout: auto` takes what the planner says, with the memory that the ranks have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mtlpar.model.settings import ModelSettings
from mtlpar.parallel.ranks import RankContext
from mtlpar.plan.census import Count, ModelCensus
from mtlpar.train.layout import choose_layout
from mtlpar.train.sampler import EpochPlan
from mtlpar.train.settings import TrainSettings

BRANCHES = {"a": ("a",), "b": ("b",)}
HEADERS = {name: SimpleNamespace(atoms_per_structure=15.0) for name in BRANCHES}
NOTHING = Count((0.0,) * 6)
# 16 bytes for each of 2**28 encoder parameters: 4 GiB, and 1 GiB more of copies that are reduced.
CENSUS = ModelCensus(NOTHING, NOTHING, NOTHING, NOTHING, 2**28, 1000, layers=64)


def test_ranks_are_dealt_by_edges_and_atoms() -> None:
    # Equally many atoms, each as much as three edges: 60 to 15.
    layout = choose_layout(
        BRANCHES,
        HEADERS,
        EpochPlan(dict.fromkeys(BRANCHES, 100), 8, seed=0),
        edges_per_atom={"a": 57.0, "b": 12.0},
        settings=TrainSettings(),
        model_settings=ModelSettings(),
        context=RankContext(0, 10, torch.device("cpu")),
    )
    assert {name: len(ranks) for name, ranks in layout.owners.items()} == {"a": 8, "b": 2}


@pytest.mark.parametrize(
    ("free_gib", "stated", "shards"),
    [(21.0, 1, 1), (19.0, 1, 4), (19.0, 2, 2), (2.0, 1, 1)],
    ids=["it fits", "it does not", "the settings say how", "nothing helps"],
)
def test_an_encoder_that_does_not_fit_is_spread_over_the_ranks_of_a_node(
    monkeypatch: pytest.MonkeyPatch, free_gib: float, stated: int, shards: int
) -> None:
    monkeypatch.setattr("mtlpar.plan.recommend.take_census", lambda _: CENSUS)
    # Two nodes of four ranks; the second has the less memory, which its ranks share.
    nodes = [("one", 2**40)] * 4 + [("two", int(free_gib * 2**30))] * 4
    monkeypatch.setattr("mtlpar.train.layout.gather", lambda _: nodes)
    layout = choose_layout(
        BRANCHES,
        HEADERS,
        EpochPlan(dict.fromkeys(BRANCHES, 100), 8, seed=0),
        edges_per_atom=dict.fromkeys(BRANCHES, 15.0),
        settings=TrainSettings(layout="auto", encoder_shards=stated),
        model_settings=ModelSettings(),
        context=RankContext(0, 8, torch.device("cpu")),
    )
    assert layout.encoder_shards == shards
