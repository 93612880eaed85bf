"""Training steps on made-up structures: the real model, layout, reduction and optimizer, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mtlpar.graph.collate import collate
from mtlpar.model.multitask import MultiTaskModel, Segment
from mtlpar.model.settings import ModelSettings
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.ranks import RankContext
from mtlpar.parallel.reduce import GradientReducer
from mtlpar.plan.synthetic import make_structures
from mtlpar.train.objective import DatasetPiece, Objective, Targets
from mtlpar.train.optim import clip_gradients, make_optimizer
from mtlpar.train.settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """What is trained.

    Attributes:
        model: Architecture.
        branches: Structures of each branch in the global batch.
        atoms: Atoms of each structure.
        layout: ``mtl-par`` or ``mtl-base``.
    """

    model: ModelSettings
    branches: dict[str, int]
    atoms: int
    layout: str


def equal_branches(count: int, batch_structures: int) -> dict[str, int]:
    """Deal a global batch evenly to so many branches."""
    return {
        f"branch{index}": (index + 1) * batch_structures // count
        - index * batch_structures // count
        for index in range(count)
    }


class StepRunner:
    """Repeats one step; all ranks of the context run it together."""

    def __init__(self, shape: StepShape, context: RankContext, *, seed: int = 0) -> None:
        """Build model, optimizer and reduction, and this rank's share of the batch.

        Args:
            shape: What is trained.
            context: Who this process is.
            seed: Seed of weights and structures.
        """
        layout = ParallelLayout.build(
            "mtl-base" if shape.layout == "mtl-base" else "mtl-par",
            cost=dict.fromkeys(shape.branches, 1.0),
            world_size=context.world_size,
        )
        self.context = context
        self.owned = layout.branches_of(context.rank)
        self.model = MultiTaskModel(shape.model, self.owned, seed=seed)
        self.model.to(context.device)
        self.optimizer = make_optimizer(self.model, TrainSettings())
        self._reducer = GradientReducer(self.model, layout, rank=context.rank)
        self._objective = Objective(
            tuple(shape.branches), energy_weight=1.0, force_weight=1.0, dataset_weights={}
        )
        self._take_batch(shape, layout, seed)

    def run(self, steps: int, *, clock: Callable[[], float] = time.perf_counter) -> float:
        """Run steps and return their seconds on this rank, until all ranks are done.

        Args:
            steps: Number of steps.
            clock: What the time is read from. `time.process_time` leaves out waiting.
        """
        self._wait()
        started = clock()
        for _ in range(steps):
            self._step()
        self._wait()
        return clock() - started

    def held_bytes(self) -> dict[str, int]:
        """Exact bytes of parameters, gradients and the optimizer's state of this rank."""
        parameters = list(self.model.parameters())
        states = [
            value
            for state in self.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor) and value.dim() > 0
        ]
        return {
            "parameters": _bytes(parameters),
            "gradients": _bytes([p.grad for p in parameters if p.grad is not None]),
            "moments": _bytes(states),
        }

    def _take_batch(self, shape: StepShape, layout: ParallelLayout, seed: int) -> None:
        segments, pieces, start = [], [], 0
        for branch in self.owned:
            structures = shape.branches[branch]
            share = layout.share(branch, self.context.rank, structures)
            stop = start + share.stop - share.start
            if stop > start:
                segments.append(
                    Segment(branch, start, stop, (start * shape.atoms, stop * shape.atoms))
                )
                pieces.append(
                    DatasetPiece(
                        branch,
                        (start, stop),
                        (start * shape.atoms, stop * shape.atoms),
                        structures,
                        structures * shape.atoms,
                    )
                )
            start = stop
        self.edges = 0
        self.structures = start
        self._segments, self._pieces = tuple(segments), tuple(pieces)
        if not start:
            return
        structures_here = make_structures(start, atoms=shape.atoms, seed=seed + self.context.rank)
        graph = collate(structures_here, shape.model.graph)
        self.edges = graph.edge_index.shape[1]
        energy = (structures_here.energy / shape.atoms).astype(np.float32)
        device = self.context.device
        self._graph = graph.to(device)
        self._targets = Targets(
            torch.from_numpy(energy).to(device), torch.from_numpy(structures_here.forces).to(device)
        )

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self._segments:
            prediction = self.model(self._graph, self._segments)
            terms = self._objective.terms(prediction, self._targets, self._pieces)
        else:
            terms = torch.zeros_like(self._objective.weights, device=self.context.device)
        self._reducer.start(lambda: terms.detach().flatten())
        if terms.requires_grad:
            self._objective.total(terms).backward()  # type: ignore[no-untyped-call]
        self._reducer.finish()
        clip_gradients(self.model, 1.0)
        self.optimizer.step()

    def _wait(self) -> None:
        if self.context.device.type == "cuda":
            torch.cuda.synchronize()
        if dist.is_initialized():
            dist.barrier()


def largest(values: Sequence[float], context: RankContext) -> list[float]:
    """Element-wise maximum over all ranks."""
    tensor = torch.tensor(values, dtype=torch.float64, device=context.device)
    if dist.is_initialized():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return [float(value) for value in tensor]


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
