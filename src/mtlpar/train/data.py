"""What a training reads: the packs of its sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mtlpar.core.files import read_json
from mtlpar.core.paths import Workspace
from mtlpar.model.multitask import TargetScale
from mtlpar.model.settings import ModelSettings
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.store.bp import BpReader
from mtlpar.store.dataset import PackedDataset, StructureStore
from mtlpar.train.loader import RankLoader
from mtlpar.train.precision import weight_dtype
from mtlpar.train.sampler import EpochPlan
from mtlpar.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What one rank trains and validates on.

    Attributes:
        branch_of: Branch of every source of the model, in order.
        headers: What the training pack of every source says about itself; see `read_header`.
        loader: Training batches of this rank.
        validation: Validation sets of the sources whose branches this rank owns.
    """

    branch_of: Mapping[str, str]
    headers: Mapping[str, Mapping[str, Any]]
    loader: RankLoader
    validation: Mapping[str, PackedDataset]

    @property
    def target_sizes(self) -> dict[str, dict[str, float]]:
        """``train_statistics`` of every source."""
        return {source: header["train_statistics"] for source, header in self.headers.items()}

    @property
    def atoms_per_epoch(self) -> float:
        """Atoms that all ranks together see in an epoch, on average."""
        samples = self.loader.plan.num_samples
        return sum(
            samples[source] * float(header["num_atoms"]) / float(header["num_structures"])
            for source, header in self.headers.items()
        )


def read_header(workspace: Workspace, source: str) -> dict[str, Any]:
    """What a source's training pack says about itself, with the digests of train and val.

    Raises:
        ValueError: If the packs are missing or damaged.
    """
    with BpReader(workspace.pack(source, "train")) as reader:
        digests = {
            split: read_json(workspace.pack_manifest(source, split))["data_digest"]
            for split in ("train", "val")
        }
        return {**reader.attributes, "data_digests": digests}


def target_scale(headers: Mapping[str, Mapping[str, Any]], sources: tuple[str, ...]) -> TargetScale:
    """Size of a branch's targets: root mean square over its sources, each counting alike."""

    def root_mean_square(key: str) -> float:
        squares = [headers[source]["train_statistics"][key] ** 2 for source in sources]
        # Sources without any signal, such as only relaxed structures, leave the scale at one.
        return float((sum(squares) / len(squares)) ** 0.5) or 1.0

    return TargetScale(
        root_mean_square("energy_rms_ev_per_atom"), root_mean_square("force_rms_ev_per_angstrom")
    )


def plan_epochs(
    headers: Mapping[str, Mapping[str, Any]], settings: TrainSettings, *, seed: int
) -> EpochPlan:
    """The steps of an epoch, the same on all ranks and layouts.

    Args:
        headers: Headers of all sources of the model, in order.
        settings: How to train.
        seed: The run's seed.
    """
    return EpochPlan(
        {source: header["num_structures"] for source, header in headers.items()},
        settings.batch_structures,
        seed,
        settings.sampling_temperature,
        settings.passes_per_epoch,
    )


def load_data(
    workspace: Workspace,
    headers: Mapping[str, Mapping[str, Any]],
    branch_of: Mapping[str, str],
    plan: EpochPlan,
    *,
    layout: ParallelLayout,
    rank: int,
    device: torch.device,
    settings: TrainSettings,
    model_settings: ModelSettings,
) -> TrainingData:
    """Read the packs whose branches a rank owns.

    Args:
        workspace: Paths of all products.
        headers: Headers of all sources of the model.
        branch_of: Branch of every source, in order.
        plan: The steps.
        layout: Who owns which branch.
        rank: This rank.
        device: Where batches go.
        settings: How to train.
        model_settings: Architecture; the graph is part of it.

    Raises:
        ValueError: If a pack is missing or damaged.
    """
    owned = layout.branches_of(rank)
    mine = [source for source, branch in branch_of.items() if branch in owned]
    owners = {source: layout.owners[branch_of[source]] for source in mine}
    stores = open_stores(
        {source: workspace.pack(source, "train") for source in mine},
        headers,
        owners,
        ranks_per_copy=settings.ranks_per_copy,
    )
    loader = RankLoader(
        stores,
        branch_of,
        plan,
        layout,
        rank,
        model_settings.graph,
        weight_dtype(settings),
        pin_memory=device.type == "cuda",
        max_atoms=settings.max_atoms_per_pass,
    )
    return TrainingData(
        branch_of=branch_of,
        headers=headers,
        loader=loader,
        validation={source: PackedDataset(workspace.pack(source, "val")) for source in mine},
    )


def open_stores(
    packs: Mapping[str, Path],
    headers: Mapping[str, Mapping[str, Any]],
    owners: Mapping[str, Sequence[int]],
    *,
    ranks_per_copy: int | None,
) -> dict[str, StructureStore]:
    """Bring training data into memory; all ranks call this together.

    Args:
        packs: Packs of the sources that this rank trains on, in the order of the model.
        headers: Headers of the packs.
        owners: Ranks that train on each of these sources.
        ranks_per_copy: See `TrainSettings.ranks_per_copy`.

    Raises:
        ValueError: If a pack is missing or damaged, or if it does not fit into a node's memory.
    """
    if not dist.is_initialized() or ranks_per_copy == 1:
        return {source: PackedDataset(path) for source, path in packs.items()}
    # Only ranks need MPI; one process goes without.
    from mpi4py import MPI

    from mtlpar.store.ddstore import Copy, DistributedDataset, require_memory

    world = MPI.COMM_WORLD
    copies = {}
    for source in packs:
        if len(owners[source]) > 1:
            ranks = world.Create_group(world.group.Incl(list(owners[source])))
            copies[source] = Copy.of(ranks, width=ranks_per_copy)
    needed = [copy.bytes_of_rank(headers[source]) for source, copy in copies.items()]
    require_memory(sum(needed), world)
    return {
        source: DistributedDataset(path, copies[source])
        if source in copies
        else PackedDataset(path)
        for source, path in packs.items()
    }
