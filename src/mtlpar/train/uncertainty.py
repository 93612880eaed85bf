"""One pass over train after training: what `mtlpar.model.uncertainty` has to know of each branch.

Only features are computed, no forces and no gradients. Structures go through the network in the
same batches on any number of ranks, and sums over them are exact, so the layout changes no bit of
what a CPU computes.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from tqdm import tqdm

from mtlpar.core.collective import collective
from mtlpar.core.composition import NUM_ELEMENTS, compositions
from mtlpar.core.hashing import UInt64Array
from mtlpar.core.structures import StructureBatch
from mtlpar.graph.collate import collate
from mtlpar.model.choice import Cloud
from mtlpar.model.heads import Branch
from mtlpar.model.multitask import MultiTaskModel, Segment
from mtlpar.model.predict import bounded_slices
from mtlpar.model.uncertainty import (
    BranchUncertainty,
    SourceFeatures,
    calibrate,
    quantiles,
    squared_norms,
    whitening,
)
from mtlpar.parallel.agree import failing_together, gather
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.store.pack import Pack
from mtlpar.train.loader import one_thread_each, prefetch
from mtlpar.train.moments import ExactMoments

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
Chunk = tuple[int, int]

MAX_STRUCTURES: Final = 1 << 18
"""Training structures of each source that are looked at; packs are in random order."""
SAMPLE: Final = 1 << 12
"""Structures of each source and split that uncertainties are calibrated and compared on."""

_CHUNK: Final = 128
_PIECE: Final = 1 << 14
_BATCH_ATOMS: Final = 4096


class Seen(NamedTuple):
    """What a branch sees of structures with energies.

    Attributes:
        features: phi, (S, K).
        error: Errors of their energies per atom in eV/atom, (S,).
        descriptors: Means of the encoder's features over atoms, and a one, (S, F + 1).
        group: What they are frames of, (S,).
        together: Which elements occur together, (119, 119).
    """

    features: FloatArray
    error: FloatArray
    descriptors: FloatArray
    group: UInt64Array
    together: npt.NDArray[np.bool_]


class SourceSums:
    """What a rank, or all of them, have seen of a source.

    Attributes:
        moments: Sum of phi phi^T over training structures.
        spread: The same sum of their descriptors.
        counts: How many these are, and in how many chunks elements occur together, (1 + 119^2,).
        samples: Some training and some validation structures, by first structure of their chunk.
    """

    def __init__(self, model: MultiTaskModel) -> None:
        """Start with nothing."""
        self.moments = ExactMoments(model.settings.head.width + 1)
        self.spread = ExactMoments(model.settings.encoder.width + 1)
        self.counts = np.zeros(1 + NUM_ELEMENTS**2, np.int64)
        self.samples: tuple[dict[int, Seen], dict[int, Seen]] = ({}, {})

    def add(self, split: int, chunk: Chunk, seen: Seen) -> None:
        """Add a chunk of the training pack (0) or of that for validation (1)."""
        if split == 0:
            self.moments.add(seen.features)
            self.spread.add(seen.descriptors)
            self.counts[0] += len(seen.features)
            self.counts[1:] += seen.together.ravel()
        if chunk[0] < SAMPLE:
            self.samples[split][chunk[0]] = seen

    def sample(self, split: int) -> Seen:
        """Some structures of a split, in the order of their pack."""
        ordered = [seen for _, seen in sorted(self.samples[split].items())]
        return Seen(
            np.concatenate([seen.features for seen in ordered]),
            np.concatenate([seen.error for seen in ordered]),
            np.concatenate([seen.descriptors for seen in ordered]),
            np.concatenate([seen.group for seen in ordered]),
            np.logical_or.reduce([seen.together for seen in ordered]),
        )

    @property
    def is_enough(self) -> bool:
        """Whether both splits have energies."""
        return all(any(len(seen.error) for seen in split.values()) for split in self.samples)


@collective
def measure(
    model: MultiTaskModel,
    packs: Mapping[str, tuple[Pack, Pack]],
    branches: Mapping[str, tuple[str, ...]],
    *,
    layout: ParallelLayout,
    rank: int,
    one_by_one: bool = False,
) -> dict[str, BranchUncertainty]:
    """Measure how far off the energies of each branch may be.

    Args:
        model: The trained model with the branches of this rank, its encoder whole.
        packs: Training and validation packs of all sources, with the references of the model.
        branches: Sources by branch.
        layout: Who owns which branch.
        rank: This rank.
        one_by_one: Whether a network takes no two batches at a time, as one that is compiled or
            whose encoder is in shards.

    Returns:
        By branch, the same on all ranks. Branches of which train or validation have no energies
        are missing.

    Raises:
        ValueError: If a pack is damaged, or features are not finite.
    """
    started = time.monotonic()
    model.eval()
    branch_of = {source: name for name, sources in branches.items() for source in sources}
    sums = {source: SourceSums(model) for source in branch_of}
    is_on_cpu = next(model.parameters()).device.type == "cpu"
    with failing_together(), one_thread_each() as cores:
        work = _work(packs, branch_of, layout, rank)
        threads = cores if is_on_cpu and not one_by_one else 1
        for source, split, chunk, seen in _passes(
            model, work, threads=threads, is_silent=rank != 0
        ):
            sums[source].add(split, chunk, seen)
    _add_up_ranks(sums, next(model.parameters()).device)
    model.train()
    logger.info(
        "uncertainty measured on %d training structures in %.1f s",
        sum(int(one.counts[0]) for one in sums.values()),
        time.monotonic() - started,
    )
    known = {
        name: uncertainty_of({source: sums[source] for source in sources})
        for name, sources in branches.items()
    }
    return {name: one for name, one in known.items() if one is not None}


def chunks_of(pack: Pack, limit: int) -> list[Chunk]:
    """First structure and structure after the last of what goes through the network together.

    They do not depend on ranks. None reaches across a block of the pack, which is read whole.
    """
    borders = [*(border for border in pack.block_borders.tolist() if border < limit)]
    borders.append(min(limit, len(pack)))
    return [
        (start, min(start + _CHUNK, stop))
        for first, stop in pairwise(borders)
        for start in range(first, stop, _CHUNK)
    ]


class _Work(NamedTuple):
    """Chunks of a pack that a rank looks at; the split is 0 for train and 1 for validation."""

    source: str
    branch: str
    split: int
    pack: Pack
    chunks: Sequence[Chunk]


def _work(
    packs: Mapping[str, tuple[Pack, Pack]],
    branch_of: Mapping[str, str],
    layout: ParallelLayout,
    rank: int,
) -> list[_Work]:
    work = []
    for source, branch in branch_of.items():
        if rank not in layout.owners[branch]:
            continue
        for split, limit in enumerate((MAX_STRUCTURES, SAMPLE)):
            pack = packs[source][split]
            chunks = chunks_of(pack, limit)
            mine = chunks[layout.share(branch, rank, len(chunks))]
            work.append(_Work(source, branch, split, pack, mine))
    return work


def _passes(
    model: MultiTaskModel, work: Sequence[_Work], *, threads: int, is_silent: bool
) -> Iterator[tuple[str, int, Chunk, Seen]]:
    """Look at chunks: source, split, which chunk, and what it holds."""
    with tqdm(
        total=sum(stop - start for part in work for start, stop in part.chunks),
        desc="uncertainty",
        unit=" structures",
        unit_scale=True,
        leave=False,
        disable=is_silent or not sys.stderr.isatty(),
    ) as bar:
        for part in work:

            def look(item: _Item, branch: str = part.branch) -> tuple[Chunk, Seen]:
                return item.chunk, _look(model, branch, item.structures, item.target)

            items = _read(part.pack, part.chunks)
            for chunk, seen in prefetch(look, items, threads=threads, ahead=2 * threads):
                yield part.source, part.split, chunk, seen
                bar.update(chunk[1] - chunk[0])


class _Item(NamedTuple):
    """A chunk with its structures and their targets in eV/atom."""

    chunk: Chunk
    structures: StructureBatch
    target: FloatArray


def _read(pack: Pack, chunks: Sequence[Chunk]) -> Iterator[_Item]:
    """Read consecutive chunks."""
    if not chunks:
        return
    waiting = iter(chunks)
    for first, piece in pack.part(chunks[0][0], chunks[-1][1], size=_PIECE):
        target = pack.header.references.to_target(piece)
        stop = 0
        while stop < len(piece):
            chunk = next(waiting)
            start, stop = chunk[0] - first, chunk[1] - first
            yield _Item(chunk, piece.slice(start, stop), target[start:stop])


@torch.no_grad()
def _look(
    model: MultiTaskModel, branch: str, structures: StructureBatch, target: FloatArray
) -> Seen:
    """Features of structures with energies, and errors of these."""
    rows = np.flatnonzero(structures.has("energy"))
    structures, target = structures.take(rows), target[rows]
    head = model.heads[branch]
    assert isinstance(head, Branch)
    parameter = next(model.parameters())
    settings = model.settings
    parts = [np.zeros((0, settings.head.width + 1))]
    means = [np.zeros((0, settings.encoder.width))]
    for start, stop in bounded_slices(structures.num_atoms, _BATCH_ATOMS):
        part = structures.slice(start, stop)
        batch = collate(part, settings.graph, dtype=parameter.dtype, device=parameter.device)
        pooled = model.pool(batch, [Segment(branch, 0, len(part), (0, part.total_atoms))])
        parts.append(pooled.last.cpu().numpy())
        means.append(pooled.descriptors.cpu().numpy())
    features, descriptors = np.concatenate(parts), np.concatenate(means)
    found = compositions(structures.num_atoms, structures.atomic_numbers)
    present = (found.counts > 0).astype(np.int64)
    error = features @ head.last_layer().cpu().numpy() - target
    return Seen(
        features,
        error,
        np.append(descriptors, np.ones((len(descriptors), 1)), axis=1),
        structures.group,
        (present.T @ present) > 0,
    )


@collective
def _add_up_ranks(sums: Mapping[str, SourceSums], device: torch.device) -> None:
    """Turn what each rank has seen into what all have seen."""
    for one in sums.values():
        for sums_of_products in (one.moments, one.spread):
            sums_of_products.levels = _sum_of_ranks(sums_of_products.levels, device)
            sums_of_products.carry()
        one.counts = _sum_of_ranks(one.counts, device)
    for theirs in gather({source: one.samples for source, one in sums.items()}):
        for source, samples in theirs.items():
            for mine, of_rank in zip(sums[source].samples, samples, strict=True):
                mine.update(of_rank)


@collective
def _sum_of_ranks(values: npt.NDArray[np.int64], device: torch.device) -> npt.NDArray[np.int64]:
    if not dist.is_initialized():
        return values
    table = torch.from_numpy(values).to(device)
    dist.all_reduce(table)
    return np.asarray(table.cpu().numpy())


def uncertainty_of(sums: Mapping[str, SourceSums]) -> BranchUncertainty | None:
    """What the sums over its sources say of a branch; None if none has energies enough."""
    sums = {source: one for source, one in sums.items() if one.is_enough}
    if not sums:
        return None
    counts = [int(one.counts[0]) for one in sums.values()]
    moments = {source: one.moments.mean(int(one.counts[0])) for source, one in sums.items()}
    covariance = np.average([*moments.values()], axis=0, weights=counts)
    validation = [one.sample(1) for one in sums.values()]
    found = calibrate(
        covariance,
        np.concatenate([seen.features for seen in validation]),
        np.concatenate([seen.error for seen in validation]),
    )
    white = whitening(covariance, found.regulariser)
    return BranchUncertainty(
        sources={source: _features(one, white) for source, one in sums.items()},
        regulariser=found.regulariser,
        factor=found.factor,
        num_validation=sum(len(seen.error) for seen in validation),
        num_groups=sum(len(np.unique(seen.group)) for seen in validation),
    )


def _features(sums: SourceSums, white: FloatArray) -> SourceFeatures:
    count = int(sums.counts[0])
    spread = sums.spread.mean(count)
    together = sums.counts[1:].reshape(NUM_ELEMENTS, NUM_ELEMENTS) > 0
    validation = sums.sample(1).descriptors[:, :-1]
    return SourceFeatures(
        num_structures=count,
        moments=torch.from_numpy(sums.moments.mean(count)),
        seen=quantiles(squared_norms(sums.sample(0).features, white)),
        together=torch.from_numpy(together),
        spread=torch.from_numpy(spread),
        distances=quantiles(Cloud.of(spread).squared_distance(validation)),
    )
