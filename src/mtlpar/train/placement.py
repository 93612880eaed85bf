"""Where a training's data go: into memory, or in windows from disk. All ranks decide alike."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch.distributed as dist

from mtlpar.core.collective import collective
from mtlpar.parallel.agree import AgreedError, gather
from mtlpar.parallel.ranks import met_through_mpi
from mtlpar.store.dataset import PackedDataset, StructureStore, column_bytes
from mtlpar.store.memory import USABLE, Demand, free_bytes, free_shared_bytes, fullest_node
from mtlpar.store.pack import Pack
from mtlpar.store.streaming import StreamedDataset, streamed_bytes

if TYPE_CHECKING:
    from mtlpar.store.ddstore import Copy

logger = logging.getLogger(__name__)

Placement = Literal["memory", "stream"]


@dataclass(frozen=True, kw_only=True)
class SourceData:
    """Training data of a source that this rank trains on.

    Attributes:
        pack: The training pack.
        owners: Ranks that train on it.
    """

    pack: Pack
    owners: Sequence[int]

    @property
    def bytes_in_columns(self) -> int:
        """Memory of a copy that no other rank shares."""
        return column_bytes(len(self.pack), self.pack.num_atoms)


@collective
def open_stores(
    sources: Mapping[str, SourceData],
    *,
    placement: Literal["auto", "memory", "stream"],
    ranks_per_copy: int | None,
    window: int,
    work_bytes: int,
    validation_bytes: int,
) -> tuple[Placement, dict[str, StructureStore | StreamedDataset]]:
    """Make training data accessible.

    Args:
        sources: What this rank trains on, by source and in the order of the model.
        placement: See `TrainSettings.data`.
        ranks_per_copy: See `TrainSettings.ranks_per_copy`.
        window: See `TrainSettings.shuffle_structures`.
        work_bytes: What this rank knows of the work of each structure, wherever the data are.
        validation_bytes: What this rank's share of the validation data takes in memory.

    Returns:
        Where the data are, and what gives access to them.

    Raises:
        ValueError: If a pack is damaged, or if a node's memory is too small.
    """
    copies = _copies(sources, ranks_per_copy)
    private = sum(data.bytes_in_columns for name, data in sources.items() if name not in copies)
    shared = sum(copy.bytes_of_rank(sources[name].pack.header) for name, copy in copies.items())
    streamed = sum(
        streamed_bytes(data.pack.header, window=window, ranks=len(data.owners))
        for data in sources.values()
    )
    chosen = choose_placement(
        placement,
        in_memory=_demand(private + shared + work_bytes + validation_bytes, shared),
        streamed=_demand(streamed + work_bytes, 0),
    )
    if chosen == "stream":
        for copy in copies.values():
            copy.free()
        return chosen, {name: StreamedDataset(data.pack) for name, data in sources.items()}
    return chosen, {name: _open(data.pack, copies.get(name)) for name, data in sources.items()}


@collective
def choose_placement(
    placement: Literal["auto", "memory", "stream"], *, in_memory: Demand, streamed: Demand
) -> Placement:
    """Log what nodes are about to hold, before they do.

    Args:
        placement: What the settings say; ``auto`` streams what does not fit.
        in_memory: What this rank would take with all data in memory.
        streamed: What it would take with data in windows.

    Raises:
        AgreedError: On every rank, if it does not fit on one of the nodes.
    """
    everyone = gather((in_memory, streamed))
    memory = fullest_node([demand for demand, _ in everyone])
    stream = fullest_node([demand for _, demand in everyone])
    if placement == "stream" or (placement == "auto" and not memory.fits):
        if placement == "auto":
            logger.warning(
                "training and validation data would take %s: they are streamed from the packs",
                memory,
            )
        _require(stream, "windows of streamed data", "lower train.shuffle_structures")
        return "stream"
    _require(
        memory,
        "training and validation data",
        "use more nodes, let ranks of several nodes share a copy (train.ranks_per_copy), stream "
        "the data from the packs (train.data: stream), or enlarge /dev/shm if it is smaller than "
        "the node's memory",
    )
    return "memory"


def _require(demand: Demand, what: str, advice: str) -> None:
    logger.info("%s take up to %s", what, demand)
    if not demand.fits:
        raise AgreedError(
            f"{what} take {demand}, but only {USABLE:.0%} of what is free may be used; {advice}"
        )


def _demand(needed: int, shared: int) -> Demand:
    return Demand(socket.gethostname(), needed, shared, free_bytes(), free_shared_bytes())


@collective
def _copies(sources: Mapping[str, SourceData], ranks_per_copy: int | None) -> dict[str, Copy]:
    """The ranks that share each source with this one, where there are any."""
    if not dist.is_initialized() or ranks_per_copy == 1:
        return {}
    if not met_through_mpi():
        logger.warning("these ranks were not started by MPI: each has a copy of its data")
        return {}
    # Only ranks need MPI; one process goes without.
    from mpi4py import MPI

    from mtlpar.store.ddstore import Copy

    world = MPI.COMM_WORLD
    copies = {}
    for name, data in sources.items():
        if len(data.owners) > 1:
            ranks = world.Create_group(world.group.Incl(list(data.owners)))
            copies[name] = Copy.of(ranks, width=ranks_per_copy)
    return copies


@collective
def _open(pack: Pack, copy: Copy | None) -> StructureStore:
    if copy is None:
        return PackedDataset(pack)
    from mtlpar.store.ddstore import DistributedDataset

    return DistributedDataset(pack, copy)
