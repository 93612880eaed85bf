"""Builds a rank's batches ahead of the step that needs them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch_geometric.data import Batch

from mtlpar.core.hashing import UInt64Array
from mtlpar.core.structures import StructureBatch
from mtlpar.graph.collate import collate
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.multitask import Segment
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.store.dataset import PackedDataset
from mtlpar.train.objective import DatasetPiece, Targets
from mtlpar.train.sampler import EpochPlan

T = TypeVar("T")


class LocalBatch(NamedTuple):
    """What one rank computes in one step; without structures if ``graph`` is None.

    Attributes:
        graph: Collated structures, grouped by dataset.
        targets: Their labels.
        segments: Which branch each dataset goes through.
        pieces: Which part of the global batch each dataset's structures are.
        structure_id: Content hashes of the structures, to name them in errors.
    """

    graph: Batch | None
    targets: Targets
    segments: tuple[Segment, ...]
    pieces: tuple[DatasetPiece, ...]
    structure_id: UInt64Array


@dataclass(frozen=True)
class RankLoader:
    """Deals the plan's global batches to one rank.

    Attributes:
        datasets: Training data of the branches this rank owns, by source.
        branch_of: Branch of each source.
        plan: The steps, the same on all ranks.
        layout: Who owns which branch.
        rank: This rank.
        graph: Neighbour graph.
        dtype: Floating type of the tensors.
    """

    datasets: Mapping[str, PackedDataset]
    branch_of: Mapping[str, str]
    plan: EpochPlan
    layout: ParallelLayout
    rank: int
    graph: GraphSettings
    dtype: torch.dtype

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[LocalBatch]:
        """Yield this rank's batches of an epoch, one per step, built one step ahead."""
        orders = {source: self.plan.order(source, epoch) for source in self.datasets}
        steps = range(first_step, self.plan.steps)
        return prefetch(lambda step: self._batch(step, orders), steps)

    def _batch(self, step: int, orders: Mapping[str, npt.NDArray[np.int64]]) -> LocalBatch:
        chosen: list[tuple[str, npt.NDArray[np.int64], int, int]] = []
        for source, order in orders.items():
            batch = order[slice(*self.plan.bounds(source, step))]
            atoms = self.datasets[source].structures.num_atoms[batch]
            share = self.layout.share(self.branch_of[source], self.rank, len(batch))
            if len(batch[share]):
                chosen.append((source, batch[share], len(batch), int(atoms.sum())))
        return self._gather(chosen)

    def _gather(self, chosen: Sequence[tuple[str, npt.NDArray[np.int64], int, int]]) -> LocalBatch:
        segments, pieces, parts, targets = [], [], [], []
        structure = atom = 0
        for source, indices, global_structures, global_atoms in chosen:
            dataset = self.datasets[source]
            part = dataset.structures.take(indices)
            next_structure, next_atom = structure + len(part), atom + part.total_atoms
            segments.append(Segment(self.branch_of[source], structure, next_structure))
            pieces.append(
                DatasetPiece(
                    source,
                    (structure, next_structure),
                    (atom, next_atom),
                    global_structures,
                    global_atoms,
                )
            )
            parts.append(part)
            targets.append(dataset.target_ev_per_atom[indices])
            structure, atom = next_structure, next_atom
        batch = StructureBatch.concatenate(parts)
        return LocalBatch(
            collate(batch, self.graph, dtype=self.dtype) if len(batch) else None,
            Targets(
                torch.from_numpy(np.concatenate([*targets, np.zeros(0)])).to(self.dtype),
                torch.from_numpy(batch.forces).to(self.dtype),
            ),
            tuple(segments),
            tuple(pieces),
            batch.structure_id,
        )


class _Failure(NamedTuple):
    error: BaseException


def prefetch(make: Callable[[int], T], items: Iterable[int], *, ahead: int = 2) -> Iterator[T]:
    """Yield ``make(item)`` in order, computed in a background thread at most ``ahead`` early.

    An exception in the thread is raised here, where the item would have come. Leaving the iterator
    early ends the thread.
    """
    ready: queue.Queue[T | _Failure | None] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(item: T | _Failure | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(make(item)):
                    return
        except BaseException as error:  # noqa: BLE001 - re-raised by the consumer
            put(_Failure(error))
        else:
            put(None)

    thread = threading.Thread(target=work, name="mtlpar-loader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stop.set()
        thread.join()
