"""Process groups of a layout."""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from mtlpar.parallel.layout import ParallelLayout


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
