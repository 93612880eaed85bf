"""Looks at a computer before the workflow spends node-hours on it.

Every check knows a fault that has cost somebody hours, most of them silent ones, and what to do
about it. All ranks run the checks together; rank 0 tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch.distributed as dist

from mtlpar.core.collective import collective
from mtlpar.machine.finding import Finding
from mtlpar.machine.ranks import (
    check_all_reduce,
    check_cores,
    check_devices,
    check_ranks,
    gather_ranks,
)
from mtlpar.machine.software import check_environment, check_mpi, check_scheduler, check_versions
from mtlpar.machine.storage import check_file_system, check_store
from mtlpar.parallel.allocation import Allocation
from mtlpar.parallel.launch import Geometry
from mtlpar.parallel.ranks import RankContext


@collective
def examine(
    context: RankContext,
    geometry: Geometry,
    *,
    folder: Path,
    allocation: Allocation,
    environment: Mapping[str, str],
) -> list[Finding]:
    """Run all checks.

    Args:
        context: Who this process is.
        geometry: What was asked for.
        folder: Folder on the file system of the results.
        allocation: The job of the scheduler.
        environment: Environment variables.

    Returns:
        All findings on rank 0; elsewhere only what that rank found by itself.
    """
    ranks = gather_ranks(context)
    findings = [
        *check_versions(),
        *check_ranks(ranks, geometry),
        *check_devices(ranks, geometry),
        *check_cores(ranks, geometry),
        *check_environment(environment, nodes=geometry.nodes, device=context.device.type),
    ]
    if context.world_size > 1:
        findings.append(check_all_reduce(context))
    if context.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        findings += [*check_store(folder), *check_file_system(folder)]
        findings += [*check_mpi(), *check_scheduler(allocation)]
    if context.world_size > 1:
        dist.barrier()
    return findings
