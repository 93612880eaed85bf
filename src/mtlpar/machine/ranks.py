"""Checks of how ranks were started: how many, where, on which device, on how many cores."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist

from mtlpar.core.collective import collective
from mtlpar.core.wording import counted
from mtlpar.machine.finding import Finding, Level
from mtlpar.parallel.agree import gather
from mtlpar.parallel.launch import Geometry
from mtlpar.parallel.ranks import RankContext

_REDUCE_BYTES: Final = {"cpu": 4 << 20, "cuda": 256 << 20, "xpu": 256 << 20}


@dataclass(frozen=True, slots=True)
class Rank:
    """What one rank sees.

    Attributes:
        rank: Its number for torch.
        mpi_rank: Its number for MPI; None without MPI.
        host: Its machine.
        cores: Cores it may use.
        device: Kind of device it computes on.
        device_id: What tells its device from others of the machine; empty for the CPU.
        devices: Devices it sees.
    """

    rank: int
    mpi_rank: int | None
    host: str
    cores: int
    device: str
    device_id: str
    devices: int


@collective
def gather_ranks(context: RankContext) -> list[Rank]:
    """What every rank sees."""
    return gather(_this_rank(context))


def check_ranks(ranks: Sequence[Rank], geometry: Geometry) -> list[Finding]:
    """Whether as many ranks as asked for started, where asked for, and agree on who they are."""
    per_host = Counter(rank.host for rank in ranks)
    found = f"{len(ranks)} on {counted(len(per_host), 'node')}"
    findings = []
    if len(ranks) != geometry.world_size:
        advice = (
            "launcher and MPI do not belong together: set MTLPAR_SRUN_MPI (pmi2 for the mpich "
            "wheel, nothing on Cray), or use the mpiexec of mpi4py's MPI"
        )
        result = f"{found}, expected {geometry.world_size}"
        findings.append(Finding("ranks", result, "FAULT", advice))
    elif set(per_host.values()) != {geometry.ranks_per_node}:
        advice = "set tasks_per_node in the profile, and neither tasks nor gpu next to gres"
        result = f"{sorted(per_host.values())} per node, expected {geometry.ranks_per_node}"
        # Nodes of a throw-away cluster may be one machine.
        level: Level = "FAULT" if len(per_host) > 1 else "note"
        findings.append(Finding("ranks per node", result, level, advice))
    else:
        findings.append(Finding("ranks", found))
    if any(rank.mpi_rank is not None for rank in ranks):
        wrong = [rank.rank for rank in ranks if rank.mpi_rank not in (None, rank.rank)]
        advice = "two launchers are at work: start ranks by `mtlpar launch` only"
        findings.append(
            Finding("MPI and torch", f"disagree on ranks {wrong}", "FAULT", advice)
            if wrong
            else Finding("MPI and torch", "agree on ranks")
        )
    return findings


def check_devices(ranks: Sequence[Rank], geometry: Geometry) -> list[Finding]:
    """Whether every rank has a device of its own."""
    kinds = sorted({rank.device for rank in ranks})
    if len(kinds) > 1:
        advice = "some nodes or ranks have no device: look at gres and MTLPAR_GPU_BIND"
        return [Finding("devices", " and ".join(kinds), "FAULT", advice)]
    if kinds == ["cpu"]:
        if not geometry.gpus_per_node:
            return [Finding("devices", "cpu")]
        advice = (
            "torch was built without support for them (see above), the job has none (gres), or "
            "srun binds none (MTLPAR_GPU_BIND)"
        )
        result = f"none visible, expected {geometry.gpus_per_node} per node"
        return [Finding("devices", result, "FAULT", advice)]
    seen = sorted({rank.devices for rank in ranks})
    findings = [Finding("devices", f"{kinds[0]}, {seen} visible to a rank")]
    used = Counter((rank.host, rank.device_id) for rank in ranks)
    shared = {key: count for key, count in used.items() if count > 1}
    if shared:
        (host, device), count = max(shared.items(), key=lambda item: item[1])
        advice = (
            "bind one to each rank: --gpus-per-task=1 (MTLPAR_GPU_BIND=closest), or make all "
            "visible (none); never more ranks than devices per node"
        )
        result = f"{count} ranks share device {device} of {host}"
        findings.append(Finding("binding", result, "FAULT", advice))
    else:
        findings.append(Finding("binding", "each rank has a device of its own"))
    return findings


def check_cores(ranks: Sequence[Rank], geometry: Geometry) -> list[Finding]:
    """Whether ranks have the cores they were given."""
    fewest = min(rank.cores for rank in ranks)
    busiest = max(Counter(rank.host for rank in ranks).values())
    if fewest < geometry.cpus_per_rank:
        advice = (
            "the step got fewer cores than the job: set `mpi: srun` on the rule in the profile, "
            "and cpus_per_task"
        )
        result = f"{fewest} for a rank, expected {geometry.cpus_per_rank}"
        return [Finding("cores", result, "FAULT", advice)]
    total = os.cpu_count() or 1
    if busiest * geometry.cpus_per_rank > total:
        advice = "ranks wait for one another: correct, but slow"
        result = f"{counted(busiest, 'rank')} x {geometry.cpus_per_rank} on {total}"
        return [Finding("cores", result, "note", advice)]
    return [Finding("cores", f"{fewest} or more for a rank")]


@collective
def check_all_reduce(context: RankContext) -> Finding:
    """Sum a large array over all ranks; with its bandwidth."""
    count = _REDUCE_BYTES[context.device.type] // 4
    values = torch.full((count,), float(context.rank + 1), device=context.device)
    dist.all_reduce(values[:1].clone())
    dist.barrier()
    started = time.perf_counter()
    dist.all_reduce(values)
    total = float(values[-1])
    seconds = time.perf_counter() - started
    expected = context.world_size * (context.world_size + 1) / 2
    if total != expected:
        advice = "the communication library computes wrong sums: see the site's notes on it"
        return Finding("all-reduce", f"{total}, expected {expected}", "FAULT", advice)
    # What crosses the network of each rank in a ring, the usual measure.
    share = 2 * (context.world_size - 1) / context.world_size
    rate = 4 * count * share / seconds / 1e9
    return Finding("all-reduce", f"{4 * count / 1e6:.0f} MB at {rate:.2f} GB/s per rank")


def _this_rank(context: RankContext) -> Rank:
    device = context.device
    return Rank(
        rank=context.rank,
        mpi_rank=_mpi_rank(context),
        host=socket.gethostname(),
        cores=_usable_cores(),
        device=device.type,
        device_id=_device_id(device),
        devices=0 if device.type == "cpu" else torch.accelerator.device_count(),
    )


def _mpi_rank(context: RankContext) -> int | None:
    if context.world_size == 1:
        return None
    try:
        from mpi4py import MPI
    except ImportError:
        return None
    # Under torchrun every process is an MPI world of one.
    return int(MPI.COMM_WORLD.rank) if MPI.COMM_WORLD.size > 1 else None


def _device_id(device: torch.device) -> str:
    if device.type == "cpu":
        return ""
    properties = getattr(torch, device.type).get_device_properties(device)
    # The index alone says nothing where each rank sees only one device.
    return str(getattr(properties, "uuid", device.index))


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
