"""Whatever the ranks, branches and sizes: nobody is idle, nothing is lost, nothing comes twice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlpar.core.structures import StructureBatch
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.settings import EgnnSettings, HeadSettings, ModelSettings
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.train.loader import RankLoader
from mtlpar.train.sampler import EpochPlan

TINY = ModelSettings(
    encoder=EgnnSettings(width=2, layers=1, vector_channels=1, radial_basis=2),
    head=HeadSettings(width=2, layers=1),
)


class Hydrogens:
    """Single atoms, each with a number of its own."""

    def __init__(self, first: int, count: int) -> None:
        identities = np.arange(first, first + count, dtype=np.uint64)
        self._all = StructureBatch.from_labels(
            num_atoms=np.ones(count),
            atomic_numbers=np.ones(count),
            positions=np.zeros((count, 3)),
            energy=np.zeros(count),
            forces=np.zeros((count, 3)),
            group=identities,
        )
        self._all.structure_id = identities

    def __len__(self) -> int:
        return len(self._all)

    def count_atoms(self, indices: np.ndarray) -> np.ndarray:
        return self._all.num_atoms[indices]

    def label_bits(self, indices: np.ndarray) -> np.ndarray:
        return self._all.label_bits[indices]

    def gather(self, indices: np.ndarray) -> tuple[StructureBatch, np.ndarray]:
        return self._all.take(indices), self._all.energy[indices]


@st.composite
def sources_of_branches(draw: st.DrawFn) -> dict[str, dict[str, int]]:
    """One to eight branches with one or two sources each, from one structure to sixty."""
    size = st.integers(1, 60)
    return {
        f"branch-{number}": {
            f"source-{number}-{part}": draw(size) for part in range(draw(st.integers(1, 2)))
        }
        for number in range(draw(st.integers(1, 8)))
    }


@pytest.mark.long
@settings(max_examples=25)
@given(
    branches=sources_of_branches(),
    ranks=st.integers(1, 16),
    kind=st.sampled_from(["mtl-par", "mtl-base"]),
    batch=st.integers(3, 40),
    max_atoms=st.none() | st.integers(1, 8),
)
def test_every_structure_is_counted_once_by_an_owner_of_its_branch(
    branches: dict[str, dict[str, int]],
    ranks: int,
    kind: str,
    batch: int,
    max_atoms: int | None,
) -> None:
    sizes = {source: size for sources in branches.values() for source, size in sources.items()}
    branch_of = {source: branch for branch, sources in branches.items() for source in sources}
    cost = {branch: float(sum(sources.values())) for branch, sources in branches.items()}
    layout = ParallelLayout.build(kind, cost=cost, world_size=ranks)
    first = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    plan = EpochPlan(sizes, batch, seed=1)
    seen: Counter[int] = Counter()
    shares: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for rank in range(ranks):
        owned = layout.branches_of(rank)
        assert owned
        mine = {s: Hydrogens(first[s], sizes[s]) for s in sizes if branch_of[s] in owned}
        loader = RankLoader(
            mine, branch_of, plan, layout, rank, GraphSettings(), torch.float64, max_atoms=max_atoms
        )
        steps = list(loader.epoch(0))
        assert len(steps) == plan.steps
        for step, passes in enumerate(steps):
            for part in passes:
                seen.update(part.structure_id.tolist())
                assert {segment.branch for segment in part.segments} <= set(owned)
                for piece in part.pieces:
                    count = piece.structures[1] - piece.structures[0]
                    shares.setdefault((step, piece.source), []).append(
                        (count, piece.counts.energies)
                    )
    assert seen == Counter(range(sum(sizes.values())))
    # Divided by what they add up to: the mean over the global batch, not a mean of means.
    for parts in shares.values():
        assert {whole for _, whole in parts} == {sum(count for count, _ in parts)}


@settings(max_examples=10)
@given(branches=st.integers(1, 8), ranks=st.integers(1, 16))
def test_every_rank_holds_the_encoder_and_together_they_hold_every_branch(
    branches: int, ranks: int
) -> None:
    cost = {f"branch-{number}": 1.0 + number for number in range(branches)}
    layout = ParallelLayout.build("mtl-par", cost=cost, world_size=ranks)
    every = set(MultiTaskModel(TINY, cost, seed=0).state_dict())
    encoder = {name for name in every if name.startswith("encoder.")}
    held = [
        set(MultiTaskModel(TINY, layout.branches_of(rank), seed=0).state_dict())
        for rank in range(ranks)
    ]
    assert all(encoder < names for names in held)
    assert set.union(*held) == every
