"""Builds a rank's batches ahead of the step that needs them."""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mtlpar.core.hashing import UInt64Array
from mtlpar.core.structures import StructureBatch
from mtlpar.graph.batch import GraphBatch
from mtlpar.graph.collate import collate
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.multitask import Segment
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.store.dataset import StructureStore
from mtlpar.store.streaming import ReadAhead, StreamedDataset, Window
from mtlpar.train.objective import LabelCounts, SourceShare, Targets
from mtlpar.train.order import EpochOrder
from mtlpar.train.sampler import EpochPlan

Item = TypeVar("Item")
T = TypeVar("T")
IndexArray = npt.NDArray[np.int64]


class LocalBatch(NamedTuple):
    """What one rank computes in one step; without structures if ``graph`` is None.

    Attributes:
        graph: Collated structures, grouped by dataset.
        targets: Their labels.
        segments: Which branch each dataset goes through.
        pieces: Which part of the global batch each dataset's structures are.
        structure_id: Content hashes of the structures, to name them in errors.
    """

    graph: GraphBatch | None
    targets: Targets
    segments: tuple[Segment, ...]
    pieces: tuple[SourceShare, ...]
    structure_id: UInt64Array

    def pin_memory(self) -> LocalBatch:
        """Copy into page-locked memory, from where copies to the device need no waiting."""
        graph = self.graph.pin_memory() if self.graph is not None else None
        targets = Targets(*(tensor.pin_memory() for tensor in self.targets))
        return self._replace(graph=graph, targets=targets)


class _LocalRows(NamedTuple):
    """This rank's share of one dataset's global batch, and where its structures are."""

    source: str
    store: StructureStore
    indices: IndexArray
    counts: LabelCounts

    def part(self, start: int, stop: int) -> _LocalRows:
        """Some of the structures; what they are a share of stays."""
        return self._replace(indices=self.indices[start:stop])


class _StepBatch(NamedTuple):
    """The global batch of one dataset in one step, and what holds this rank's share of it."""

    source: str
    store: StructureStore
    batch: IndexArray


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
        pin_memory: Deliver page-locked tensors; for batches that go to an accelerator.
        max_atoms: Atoms in one pass, in whole structures; None for a single pass.
        threads: Batches that are built at the same time. Has no influence on what is delivered.
        ahead: Batches that are built before they are asked for.
        work: Work of every structure of a source that several ranks share, see
            `mtlpar.train.work`; structures count alike where it is not given.
    """

    datasets: Mapping[str, StructureStore | StreamedDataset]
    branch_of: Mapping[str, str]
    plan: EpochPlan
    layout: ParallelLayout
    rank: int
    graph: GraphSettings
    dtype: torch.dtype
    pin_memory: bool = False
    max_atoms: int | None = None
    threads: int = 2
    ahead: int = 4
    work: Mapping[str, npt.NDArray[np.integer]] = field(default_factory=dict)

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[tuple[LocalBatch, ...]]:
        """Yield this rank's shares of an epoch, one per step, built in background threads.

        A share comes in passes that are to be computed one by one; there is at least one.

        Args:
            epoch: Number of the epoch, from zero.
            first_step: Steps of the epoch that are already done.
        """
        return prefetch(
            self._batch,
            self._requests(epoch, first_step),
            threads=self.threads,
            ahead=self.ahead,
        )

    def _requests(self, epoch: int, first_step: int) -> Iterator[list[_StepBatch]]:
        """The global batches of the steps, dataset by dataset."""
        orders = {source: self.plan.order(source, epoch) for source in self.datasets}
        stores = {source: self._stores(source, orders, first_step) for source in orders}
        for step in range(first_step, self.plan.steps):
            batches = self._batches(orders, step)
            yield [_StepBatch(s, next(stores[s]), batch) for s, batch in batches.items()]

    def _batches(self, orders: Mapping[str, EpochOrder], step: int) -> dict[str, IndexArray]:
        """The global batch of each dataset in one step."""
        return {s: order[slice(*self.plan.bounds(s, step))] for s, order in orders.items()}

    def _stores(
        self, source: str, orders: Mapping[str, EpochOrder], first_step: int
    ) -> Iterator[StructureStore]:
        """What holds the structures of a dataset in each step."""
        dataset, order = self.datasets[source], orders[source]
        if not isinstance(dataset, StreamedDataset):
            yield from itertools.repeat(dataset)
            return

        def read(window: int) -> Window:
            return dataset.read(
                order.windows[window].tolist(), self._wanted(source, orders, window)
            )

        with ReadAhead(read, len(order.windows)) as windows:
            for step in range(first_step, self.plan.steps):
                yield windows.get(order.windows_of(*self.plan.bounds(source, step)))

    def _wanted(self, source: str, orders: Mapping[str, EpochOrder], window: int) -> IndexArray:
        """Structures of a dataset's window that this rank computes."""
        order = orders[source]
        first, last = order.starts[window], min(order.starts[window + 1], len(order))
        steps = [self.plan.step_of(source, int(position)) for position in (first, last - 1)]
        wanted = [np.zeros(0, np.int64)]
        for step in range(steps[0], steps[1] + 1):
            batches = self._batches(orders, step)
            place = self._dealt(batches)[source]
            # The first and the last step may take some of their structures from other windows.
            position = self.plan.bounds(source, step)[0] + place
            here = (position >= first) & (position < last)
            wanted.append(batches[source][place[here]])
        return np.concatenate(wanted)

    def _dealt(self, batches: Mapping[str, IndexArray]) -> dict[str, IndexArray]:
        """Places of this rank's structures in the global batch of each dataset in one step.

        Datasets of the same ranks are dealt together: few structures of one can be balanced by
        those of another.
        """
        together: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for source in batches:
            together[self.layout.owners[self.branch_of[source]]].append(source)
        places = {}
        for sources in together.values():
            work = [self._work_of(source, batches[source]) for source in sources]
            branch = self.branch_of[sources[0]]
            mine = self.layout.deal(branch, self.rank, np.concatenate(work))
            first = 0
            for source, part in zip(sources, work, strict=True):
                low, high = np.searchsorted(mine, [first, first + len(part)])
                places[source] = mine[low:high] - first
                first += len(part)
        return places

    def _work_of(self, source: str, batch: IndexArray) -> npt.NDArray[np.integer]:
        work = self.work.get(source)
        return np.ones(len(batch), np.uint32) if work is None else work[batch]

    def _batch(self, requests: Sequence[_StepBatch]) -> tuple[LocalBatch, ...]:
        shares = []
        places = self._dealt({request.source: request.batch for request in requests})
        for source, store, batch in requests:
            mine = batch[places[source]]
            if len(mine):
                counts = LabelCounts.of(store.count_atoms(batch), store.label_bits(batch))
                shares.append(_LocalRows(source, store, mine, counts))
        passes = tuple(self._gather(part) for part in self._passes(shares))
        return tuple(part.pin_memory() for part in passes) if self.pin_memory else passes

    def _passes(self, shares: Sequence[_LocalRows]) -> list[list[_LocalRows]]:
        """Cut shares where the next structure would exceed the limit of atoms."""
        if self.max_atoms is None:
            return [list(shares)]
        passes: list[list[_LocalRows]] = [[]]
        room = self.max_atoms
        for share in shares:
            start = 0
            for index, atoms in enumerate(share.store.count_atoms(share.indices)):
                if atoms > room and room < self.max_atoms:
                    passes[-1].append(share.part(start, index))
                    passes.append([])
                    start, room = index, self.max_atoms
                room -= int(atoms)
            passes[-1].append(share.part(start, len(share.indices)))
        return [[share for share in part if len(share.indices)] for part in passes]

    def _gather(self, shares: Sequence[_LocalRows]) -> LocalBatch:
        segments, pieces, parts, targets = [], [], [], []
        structure = atom = 0
        for share in shares:
            part, target_ev_per_atom = share.store.gather(share.indices)
            structures = (structure, structure + len(part))
            atoms = (atom, atom + part.total_atoms)
            segments.append(Segment(self.branch_of[share.source], *structures, atoms))
            here = LabelCounts.of(part.num_atoms, part.label_bits)
            pieces.append(SourceShare(share.source, structures, atoms, here, share.counts))
            parts.append(part)
            targets.append(target_ev_per_atom)
            structure, atom = structures[1], atoms[1]
        batch = parts[0] if len(parts) == 1 else StructureBatch.concatenate(parts)
        return LocalBatch(
            collate(batch, self.graph, dtype=self.dtype) if len(batch) else None,
            Targets.of(batch, np.concatenate([*targets, np.zeros(0)]), dtype=self.dtype),
            tuple(segments),
            tuple(pieces),
            batch.structure_id,
        )


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Compute with one thread inside the block, and say how many may compute side by side.

    Sums over several threads depend on their number in the last digit, and with it on the ranks.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def prefetch(
    make: Callable[[Item], T], items: Iterable[Item], *, threads: int = 2, ahead: int = 4
) -> Iterator[T]:
    """Yield ``make(item)`` in order, computed in background threads before they are asked for.

    An exception in a thread is raised here, where the item would have come. Leaving the iterator
    early ends the threads, after the items that they are working on.

    Args:
        make: Computes one item; called from several threads at once.
        items: Arguments of ``make``.
        threads: Items that are computed at the same time.
        ahead: Items that are computed or waiting while the consumer works on one.
    """
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="mtlpar-loader") as pool:
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
