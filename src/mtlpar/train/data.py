"""What a training reads: the packs of its sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mtlpar.core.collective import collective
from mtlpar.core.error_names import RMS_NAMES
from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.multitask import TargetScale
from mtlpar.model.settings import ModelSettings
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.store.dataset import PackSlice, column_bytes
from mtlpar.store.header import PackHeader
from mtlpar.store.pack import Pack
from mtlpar.train.loader import RankLoader
from mtlpar.train.placement import Placement, SourceData, open_stores
from mtlpar.train.precision import weight_dtype
from mtlpar.train.sampler import EpochPlan
from mtlpar.train.settings import TrainSettings
from mtlpar.train.work import WORK_BYTES, gather_work

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What one rank trains and validates on.

    Attributes:
        branch_of: Branch of every source of the model, in order.
        headers: What the training pack of every source says.
        loader: Training batches of this rank.
        validation: This rank's share of the validation sets of the sources whose branches it owns,
            in pieces with their targets in eV/atom.
        validation_packs: The packs that these lie in, with the references of the model.
    """

    branch_of: Mapping[str, str]
    headers: Mapping[str, PackHeader]
    loader: RankLoader
    validation: Mapping[str, Iterable[tuple[StructureBatch, FloatArray]]]
    validation_packs: Mapping[str, Pack]

    @property
    def target_sizes(self) -> dict[str, dict[str, float | None]]:
        """``train_statistics`` of every source."""
        return {source: header.train_statistics.plain() for source, header in self.headers.items()}

    @property
    def atoms_per_epoch(self) -> float:
        """Atoms that all ranks together see in an epoch, on average."""
        samples = self.loader.plan.num_samples
        return sum(
            samples[source] * header.atoms_per_structure for source, header in self.headers.items()
        )


def target_scale(headers: Mapping[str, PackHeader], sources: tuple[str, ...]) -> TargetScale:
    """Size of a branch's targets: root mean square over its sources, each counting alike."""

    def root_mean_square(key: str) -> float:
        sizes = [getattr(headers[source].train_statistics, key) for source in sources]
        squares = [size**2 for size in sizes if size is not None]
        # Sources without any signal, such as only relaxed structures, leave the scale at one.
        return float((sum(squares) / len(squares)) ** 0.5) or 1.0 if squares else 1.0

    return TargetScale(root_mean_square(RMS_NAMES["energy"]), root_mean_square(RMS_NAMES["forces"]))


def plan_epochs(
    headers: Mapping[str, PackHeader], settings: TrainSettings, *, seed: int
) -> EpochPlan:
    """The steps of an epoch, the same on all ranks and layouts.

    Args:
        headers: Headers of all sources of the model, in order.
        settings: How to train.
        seed: The run's seed.
    """
    return EpochPlan(
        {source: header.num_structures for source, header in headers.items()},
        settings.batch_structures,
        seed,
        settings.sampling_temperature,
        settings.passes_per_epoch,
        {source: header.blocks.num_structures for source, header in headers.items()},
        settings.shuffle_structures,
    )


@collective
def load_data(
    workspace: Workspace,
    packs: Mapping[str, Pack],
    branch_of: Mapping[str, str],
    plan: EpochPlan,
    *,
    layout: ParallelLayout,
    rank: int,
    device: torch.device,
    settings: TrainSettings,
    model_settings: ModelSettings,
) -> TrainingData:
    """Read the data whose branches a rank owns.

    Args:
        workspace: Paths of all products.
        packs: Training packs of all sources of the model; validation has their references.
        branch_of: Branch of every source, in order.
        plan: The steps.
        layout: Who owns which branch.
        rank: This rank.
        device: Where batches go.
        settings: How to train.
        model_settings: Architecture; the graph is part of it.

    Raises:
        ValueError: If a pack is missing or damaged, or if a node's memory is too small.
    """
    owned = layout.branches_of(rank)
    mine = [source for source, branch in branch_of.items() if branch in owned]
    validation_packs = {source: validation_pack(workspace, packs[source]) for source in mine}
    validation = {
        source: _validation_share(pack, branch_of[source], layout, rank)
        for source, pack in validation_packs.items()
    }
    placement, loader = _open_loader(
        packs,
        branch_of,
        plan,
        layout=layout,
        rank=rank,
        device=device,
        settings=settings,
        graph=model_settings.graph,
        validation_bytes=sum(needed for _, needed in validation.values()),
    )
    return TrainingData(
        branch_of=branch_of,
        headers={source: pack.header for source, pack in packs.items()},
        loader=loader,
        validation={
            source: share if placement == "stream" else tuple(share)
            for source, (share, _) in validation.items()
        },
        validation_packs=validation_packs,
    )


@collective
def _open_loader(
    packs: Mapping[str, Pack],
    branch_of: Mapping[str, str],
    plan: EpochPlan,
    *,
    layout: ParallelLayout,
    rank: int,
    device: torch.device,
    settings: TrainSettings,
    graph: GraphSettings,
    validation_bytes: int,
) -> tuple[Placement, RankLoader]:
    """Where a rank's training data lie, and what makes batches of them.

    Args:
        packs: Training packs of all sources of the model.
        branch_of: Branch of every source, in order.
        plan: The steps.
        layout: Who owns which branch.
        rank: This rank.
        device: Where batches go.
        settings: How to train.
        graph: Neighbour graph.
        validation_bytes: What the rank's share of the validation data takes in memory.
    """
    owners = {source: layout.owners[branch] for source, branch in branch_of.items()}
    mine = [source for source, ranks in owners.items() if rank in ranks]
    # What several ranks share is dealt by work, which all of them know.
    shared = {source: packs[source] for source, ranks in owners.items() if len(ranks) > 1}
    placement, stores = open_stores(
        {source: SourceData(pack=packs[source], owners=owners[source]) for source in mine},
        placement=settings.data,
        ranks_per_copy=settings.ranks_per_copy,
        window=settings.shuffle_structures,
        work_bytes=sum(WORK_BYTES * len(packs[source]) for source in mine if source in shared),
        validation_bytes=validation_bytes,
    )
    work = gather_work(shared, graph, rank=rank, world_size=layout.world_size)
    loader = RankLoader(
        stores,
        branch_of,
        plan,
        layout,
        rank,
        graph,
        weight_dtype(settings),
        pin_memory=device.type == "cuda",
        max_atoms=settings.max_atoms_per_pass,
        work={source: work[source] for source in mine if source in work},
    )
    return placement, loader


def validation_pack(workspace: Workspace, train: Pack) -> Pack:
    """Open the validation pack beside a training pack, with its references.

    Raises:
        ValueError: If it is missing or damaged, or of other splits.
    """
    pack = Pack.of(workspace, train.header.source, "val")
    train.check_beside(pack)
    pack.use_references(train.header.references)
    return pack


def _validation_share(
    pack: Pack, branch: str, layout: ParallelLayout, rank: int
) -> tuple[PackSlice, int]:
    """The structures of a validation set that a rank predicts, and what they take in memory."""
    share = layout.share(branch, rank, len(pack))
    count = share.stop - share.start
    return PackSlice(pack, share), column_bytes(count, count * pack.num_atoms // len(pack))
