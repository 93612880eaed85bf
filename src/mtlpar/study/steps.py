"""Training steps on made-up structures: the steps of the train stage, repeated and timed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from mtlpar.core.collective import collective
from mtlpar.core.hashing import derive_seed
from mtlpar.core.structures import StructureBatch
from mtlpar.core.wording import counted
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.settings import ModelSettings
from mtlpar.parallel.device import wait_for
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.ranks import RankContext
from mtlpar.parallel.trace import span, watched_by
from mtlpar.plan.synthetic import make_structures
from mtlpar.study.records import SHARDED
from mtlpar.study.settings import StudySettings
from mtlpar.study.stopwatch import Stopwatch
from mtlpar.train.loader import LocalBatch, RankLoader
from mtlpar.train.objective import Objective
from mtlpar.train.sampler import EpochPlan
from mtlpar.train.settings import TrainSettings
from mtlpar.train.step import Requests, TrainStep

_SETTINGS: Final = TrainSettings(max_gradient_norm=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """What is trained.

    Attributes:
        model: Architecture.
        branches: Structures of each branch in the global batch.
        atoms: Atoms of each structure.
        layout: Who owns which branch.
    """

    model: ModelSettings
    branches: dict[str, int]
    atoms: int
    layout: ParallelLayout


def equal_branches(count: int, batch_structures: int) -> dict[str, int]:
    """Deal a global batch evenly to so many branches."""
    return {
        f"branch{index}": (index + 1) * batch_structures // count
        - index * batch_structures // count
        for index in range(count)
    }


def shape_of(
    layout: str, branches: dict[str, int], *, settings: StudySettings, context: RankContext
) -> StepShape:
    """The steps of a study in one of its layouts, on all ranks.

    Args:
        layout: ``mtl-base``, ``mtl-par``, or ``mtl-par-sharded``, which also spreads the encoder
            over all ranks.
        branches: Structures of each branch in the global batch; groups of ranks follow them.
        settings: Model, and atoms of a structure.
        context: Who this process is.
    """
    return StepShape(
        model=settings.model,
        branches=branches,
        atoms=settings.atoms,
        layout=ParallelLayout.build(
            "mtl-base" if layout == "mtl-base" else "mtl-par",
            cost=branches,
            world_size=context.world_size,
            encoder_shards=context.world_size if layout == SHARDED else 1,
        ),
    )


def are_oversubscribed(context: RankContext) -> bool:
    """Whether ranks have no core or GPU of their own: they take turns, and wait for each other."""
    return context.device.type == "cpu" and context.world_size > (os.cpu_count() or 1)


def require_ranks(context: RankContext, ranks: int, what: str, otherwise: str = "") -> None:
    """Refuse to measure on another number of ranks.

    Args:
        context: Who this process is.
        ranks: How many it takes.
        what: What is measured.
        otherwise: What else than starting as many would help.

    Raises:
        ValueError: If there are more or fewer.
    """
    if context.world_size != ranks:
        raise ValueError(
            f"{what} is measured on {counted(ranks, 'rank')}, got {context.world_size}; start it "
            f"with `mtlpar launch --ranks-per-node {ranks}`{otherwise}"
        )


class StepRunner:
    """Runs steps of training; all ranks of the context run them together.

    Attributes:
        shape: What is trained.
        structures: Structures in this rank's share of the first batch.
        edges: Edges in it.
    """

    @collective
    def __init__(
        self, shape: StepShape, context: RankContext, *, steps_per_epoch: int = 1, seed: int = 0
    ) -> None:
        """Build what a step needs, and this rank's share of the first batch.

        Args:
            shape: What is trained.
            context: Who this process is.
            steps_per_epoch: Batches to make up.
            seed: Seed of weights and structures.
        """
        self.shape = shape
        self.context = context
        model = MultiTaskModel(shape.model, shape.layout.branches_of(context.rank), seed=seed)
        self._train_step = TrainStep(
            model.to(context.device),
            Objective(dict.fromkeys(shape.branches, (1.0, 1.0, 0.0))),
            layout=shape.layout,
            context=context,
            settings=_SETTINGS,
        )
        self._loader = made_up_loader(shape, rank=context.rank, steps=steps_per_epoch, seed=seed)
        # Copied to the device once: what is repeated is the step, not the copy.
        self._passes = [
            batch._replace(graph=batch.graph and batch.graph.to(context.device))
            for batch in next(self._loader.epoch(0))
        ]
        graphs = [batch.graph for batch in self._passes if batch.graph is not None]
        self.structures = sum(graph.num_graphs for graph in graphs)
        self.edges = sum(graph.num_edges for graph in graphs)

    @collective
    def run(self, steps: int) -> float:
        """Repeat the first step and return the seconds on this rank, until all ranks are done.

        Args:
            steps: Number of steps.
        """
        self._wait()
        started = time.perf_counter()
        for step in range(steps):
            self._step(self._passes, step)
        self._wait()
        return time.perf_counter() - started

    @collective
    def run_epoch(self) -> None:
        """Run an epoch as training does, with batches that the loader builds meanwhile."""
        self._wait()
        batches = self._loader.epoch(0)
        for step in range(self._loader.plan.steps):
            with span("data"):
                passes = next(batches)
            self._step(passes, step)
        self._wait()

    @collective
    def trace_epoch(self) -> list[tuple[float, ...]]:
        """Run an epoch and return the times of its steps on this rank, `stopwatch.COLUMNS`."""
        self._wait()
        watch = Stopwatch(self.context.device)
        with watched_by(watch):
            self.run_epoch()
        return watch.steps

    def held_bytes(self) -> dict[str, int]:
        """See `TrainStep.held_bytes`."""
        return self._train_step.held_bytes()

    def _step(self, passes: Sequence[LocalBatch], step: int) -> None:
        self._train_step.run(
            passes, step=step, learning_rate=_SETTINGS.learning_rate, requests=Requests()
        )

    @collective
    def _wait(self) -> None:
        wait_for(self.context.device)
        if dist.is_initialized():
            dist.barrier()


def made_up_loader(shape: StepShape, *, rank: int, steps: int, seed: int) -> RankLoader:
    """The training loader of a rank, over made-up structures.

    Args:
        shape: What is trained.
        rank: This rank.
        steps: Steps of an epoch, each with the batch of the shape.
        seed: Seed of the structures, which depend on nothing else.
    """
    counts = {branch: steps * count for branch, count in shape.branches.items() if count}
    stores = {
        branch: _MadeUpStore(
            make_structures(
                counts[branch], atoms=shape.atoms, seed=derive_seed(seed, "made up", branch)
            )
        )
        for branch in shape.layout.branches_of(rank)
        if branch in counts
    }
    return RankLoader(
        stores,
        {branch: branch for branch in shape.branches},
        EpochPlan(counts, max(shape.branches.values()), seed),
        shape.layout,
        rank,
        shape.model.graph,
        torch.float32,
    )


class _MadeUpStore:
    """Made-up structures as a `StructureStore`; targets are their energies."""

    def __init__(self, structures: StructureBatch) -> None:
        self._structures = structures

    def __len__(self) -> int:
        return len(self._structures)

    def count_atoms(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        return self._structures.num_atoms[indices]

    def label_bits(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return self._structures.label_bits[indices]

    def gather(
        self, indices: npt.NDArray[np.int64]
    ) -> tuple[StructureBatch, npt.NDArray[np.float64]]:
        part = self._structures.take(indices)
        return part, part.energy / part.num_atoms


@collective
def largest(values: Sequence[float], context: RankContext) -> list[float]:
    """Element-wise maximum over all ranks."""
    tensor = torch.tensor(values, dtype=torch.float64, device=context.device)
    if dist.is_initialized():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return [float(value) for value in tensor]
