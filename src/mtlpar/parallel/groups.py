"""Process groups of a layout."""

from __future__ import annotations

import datetime

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from mtlpar.core.collective import collective
from mtlpar.parallel.layout import ParallelLayout


@collective
def encoder_mesh(layout: ParallelLayout, *, device_type: str, timeout_s: float) -> DeviceMesh:
    """Ranks by copy of the encoder and shard; by shard alone if there is one copy.

    Its groups are its own, even where they are the world or those of a branch: ranks that lack
    structures for a branch reduce that branch later than others, but never shards.

    Args:
        layout: Who shares an encoder.
        device_type: Where the model lives.
        timeout_s: How long a rank waits for another in a collective.
    """
    timeout = datetime.timedelta(seconds=timeout_s)
    shards = layout.encoder_shards
    copies = layout.world_size // shards
    if copies == 1:
        return DeviceMesh.from_group(
            dist.new_group(timeout=timeout), device_type, mesh_dim_names=("encoder_shard",)
        )
    return _mesh(("encoder_copy", "encoder_shard"), (copies, shards), device_type, timeout)


@collective
def branch_groups(
    layout: ParallelLayout, *, rank: int, device_type: str, timeout_s: float
) -> dict[str, dist.ProcessGroup | None]:
    """Groups in which the gradients of this rank's branches are summed.

    Equal disjoint groups are the rows of a `DeviceMesh` with the axes ``branch`` and ``replica``;
    others are made one by one. Branches with one owner need no reduction and are left out; None
    stands for the world.

    Args:
        layout: Who owns which branch.
        rank: This rank.
        device_type: Where the model lives.
        timeout_s: How long a rank waits for another in a collective.
    """
    timeout = datetime.timedelta(seconds=timeout_s)
    if layout.world_size == 1:
        return {}
    if layout.is_even and len(layout.owners) > 1:
        replicas = layout.world_size // len(layout.owners)
        if replicas == 1:
            return {}
        shape = (len(layout.owners), replicas)
        mesh = _mesh(("branch", "replica"), shape, device_type, timeout)
        return dict.fromkeys(layout.branches_of(rank), mesh.get_group("replica"))
    groups: dict[str, dist.ProcessGroup | None] = {}
    for branch, ranks in layout.owners.items():
        if len(ranks) == layout.world_size:
            groups[branch] = None
        elif len(ranks) > 1:
            group = dist.new_group(list(ranks), timeout=timeout)
            if rank in ranks:
                groups[branch] = group
    return groups


@collective
def _mesh(
    names: tuple[str, str], shape: tuple[int, int], device_type: str, timeout: datetime.timedelta
) -> DeviceMesh:
    """As `init_device_mesh`, whose groups would wait for torch's half an hour, not the world's."""
    ranks = torch.arange(shape[0] * shape[1]).view(shape)
    groups = [
        dist.new_subgroups_by_enumeration(  # type: ignore[no-untyped-call]
            lines.tolist(), timeout=timeout
        )[0]
        for lines in (ranks.T, ranks)
    ]
    return DeviceMesh.from_group(groups, device_type, mesh=ranks, mesh_dim_names=names)
