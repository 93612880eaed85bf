"""Process groups of a layout."""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from mtlpar.parallel.layout import ParallelLayout


def encoder_mesh(layout: ParallelLayout, *, device_type: str) -> DeviceMesh:
    """Ranks by copy of the encoder and shard; by shard alone if there is one copy.

    Its groups are its own, even where they are the world or those of a branch: ranks that lack
    structures for a branch reduce that branch later than others, but never shards.
    Every rank must call this.
    """
    shards = layout.encoder_shards
    copies = layout.world_size // shards
    if copies == 1:
        return DeviceMesh.from_group(
            dist.new_group(), device_type, mesh_dim_names=("encoder_shard",)
        )
    names = ("encoder_copy", "encoder_shard")
    return init_device_mesh(device_type, (copies, shards), mesh_dim_names=names)


def branch_groups(
    layout: ParallelLayout, *, rank: int, device_type: str
) -> dict[str, dist.ProcessGroup | None]:
    """Groups in which the gradients of this rank's branches are summed.

    Equal disjoint groups are the rows of a `DeviceMesh` with the axes ``branch`` and ``replica``;
    others are made one by one. Every rank must call this, in the same order. Branches with one
    owner need no reduction and are left out; None stands for the world.
    """
    if layout.world_size == 1:
        return {}
    if layout.is_even and len(layout.owners) > 1:
        replicas = layout.world_size // len(layout.owners)
        if replicas == 1:
            return {}
        mesh = init_device_mesh(
            device_type, (len(layout.owners), replicas), mesh_dim_names=("branch", "replica")
        )
        return dict.fromkeys(layout.branches_of(rank), mesh.get_group("replica"))
    groups: dict[str, dist.ProcessGroup | None] = {}
    for branch, ranks in layout.owners.items():
        if len(ranks) == layout.world_size:
            groups[branch] = None
        elif len(ranks) > 1:
            group = dist.new_group(list(ranks))
            if rank in ranks:
                groups[branch] = group
    return groups
