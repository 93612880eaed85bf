"""Looks at a computer before the workflow spends node-hours on it.

Every check knows a fault that has cost somebody hours, most of them silent ones, and what to do
about it. All ranks run the checks together; rank 0 tells.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import shutil
import site
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
import torch.distributed as dist

from mtlpar.core.structures import StructureBatch
from mtlpar.parallel.allocation import Allocation, run_client, seconds_left
from mtlpar.parallel.launch import Geometry, RankContext
from mtlpar.store.bp import BpReader, write_bp

Level = Literal["ok", "note", "FAULT"]

_PACKAGES: Final = ("mtlpar", "torch", "torch_geometric", "numpy", "adios2", "mpi4py", "snakemake")
_REDUCE_BYTES: Final = {"cpu": 4 << 20, "cuda": 256 << 20, "xpu": 256 << 20}
_STORE_STRUCTURES: Final = 20_000
_CLOCK_TOLERANCE_S: Final = 5.0
_FREE_BYTES: Final = 10 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at.
        result: What is there.
        level: ``ok``; ``note`` for what may be meant; ``FAULT`` for what will fail or be slow.
        advice: What to do about it.
    """

    check: str
    result: str
    level: Level = "ok"
    advice: str = ""


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


def examine(
    context: RankContext,
    geometry: Geometry,
    *,
    folder: Path,
    allocation: Allocation,
    environment: Mapping[str, str],
) -> list[Finding]:
    """Run all checks; all ranks must call this together.

    Args:
        context: Who this process is.
        geometry: What was asked for.
        folder: Folder on the file system of the results.
        allocation: The job of the scheduler.
        environment: Environment variables.

    Returns:
        All findings on rank 0; elsewhere only what that rank found by itself.
    """
    ranks = _gather(_this_rank(context), context)
    findings = [
        *check_versions(),
        *check_ranks(ranks, geometry),
        *check_devices(ranks, geometry),
        *check_cores(ranks, geometry),
        *check_environment(environment, nodes=geometry.nodes, device=context.device.type),
    ]
    if context.world_size > 1:
        findings.append(_check_all_reduce(context))
    if context.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        findings += [*check_store(folder), *check_file_system(folder)]
        findings += [*check_scheduler(allocation)]
    if context.world_size > 1:
        dist.barrier()
    return findings


def as_table(findings: Sequence[Finding]) -> str:
    """One line per finding, its advice below it."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<5}  {finding.check:<{width}}  {finding.result}")
        if finding.advice:
            lines.append(f"{'':<5}  {'':<{width}}  -> {finding.advice}")
    return "\n".join(lines)


def as_plain(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Findings as JSON values."""
    return [asdict(finding) for finding in findings]


def check_versions() -> list[Finding]:
    """Versions of what the numbers depend on."""
    findings = [Finding("python", f"{platform.python_version()} on {platform.machine()}")]
    for name in _PACKAGES:
        try:
            findings.append(Finding(name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            if name == "mpi4py":
                advice = "one process works; for ranks install mtlpar[mpi], or build mpi4py here"
                findings.append(Finding(name, "not installed", "note", advice))
            elif name == "snakemake":
                advice = "install mtlpar[workflow] where Snakemake runs"
                findings.append(Finding(name, "not installed", "note", advice))
            else:
                advice = "build the environment as docs/machines.md says"
                findings.append(Finding(name, "not installed", "FAULT", advice))
    findings.append(Finding("adios2 with MPI", "yes" if _adios_has_mpi() else "no, and needs none"))
    findings.append(Finding("torch built for", _torch_build()))
    if site.ENABLE_USER_SITE and Path(site.getusersitepackages()).is_dir():
        advice = "its packages shadow the environment's: export PYTHONNOUSERSITE=1 in env.sh"
        findings.append(Finding("user site", site.getusersitepackages(), "note", advice))
    return findings


def check_ranks(ranks: Sequence[Rank], geometry: Geometry) -> list[Finding]:
    """Whether as many ranks as asked for started, where asked for, and agree on who they are."""
    per_host = Counter(rank.host for rank in ranks)
    found = f"{len(ranks)} on {len(per_host)} node(s)"
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
        result = f"{busiest} ranks x {geometry.cpus_per_rank} on {total}"
        return [Finding("cores", result, "note", advice)]
    return [Finding("cores", f"{fewest} or more for a rank")]


def check_environment(environment: Mapping[str, str], *, nodes: int, device: str) -> list[Finding]:
    """Settings that are known to hang, to slow down, or to do nothing."""
    known: list[tuple[bool, str, Level, str]] = [
        (
            environment.get("FI_MR_CACHE_MONITOR") == "memhooks",
            "FI_MR_CACHE_MONITOR=memhooks",
            "FAULT",
            "deadlocks with NCCL and RCCL: kdreg2 or userfaultfd",
        ),
        (
            any(name.startswith("FI_CXI_RDV_") for name in environment),
            "FI_CXI_RDV_*",
            "FAULT",
            "no such setting: it is spelt FI_CXI_RDZV_*",
        ),
        (
            "SLURM_NTASKS_PER_GPU" in environment,
            "SLURM_NTASKS_PER_GPU",
            "FAULT",
            "starts the program once per GPU and conflicts with --gpus-per-task: in the profile "
            "use tasks_per_node and gres, never tasks or gpu",
        ),
        (
            environment.get("NCCL_NET") == "OFI" and nodes == 1,
            "NCCL_NET=OFI",
            "FAULT",
            "breaks jobs of one node: unset it",
        ),
        (
            device == "cuda" and nodes > 1 and not _has_network_plugin(environment),
            "no network plugin of NCCL or RCCL",
            "note",
            "nodes will talk over TCP, several times slower: load the site's aws-ofi module",
        ),
    ]
    found = [
        Finding("environment", what, level, advice)
        for is_wrong, what, level, advice in known
        if is_wrong
    ]
    return found or [Finding("environment", "no setting that is known to hurt")]


def check_store(folder: Path) -> list[Finding]:
    """Write a pack, read it back, compare; with the bandwidth of both."""
    batch = _made_up(_STORE_STRUCTURES)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as name:
        path = Path(name) / "probe.bp"
        started = time.perf_counter()
        write_bp(
            path,
            [batch],
            num_structures=len(batch),
            num_atoms=batch.total_atoms,
            attributes={"source": "probe"},
        )
        written = time.perf_counter()
        with BpReader(path) as reader:
            again = reader.read()
        read = time.perf_counter()
        megabytes = sum(file.stat().st_size for file in path.rglob("*")) / 1e6
    if not np.array_equal(again.positions, batch.positions):
        advice = "ADIOS2 or the file system loses data: do not go on, try another build or folder"
        return [Finding("store", "reads back other values than were written", "FAULT", advice)]
    rates = f"write {megabytes / (written - started):.0f} MB/s"
    rates += f", read {megabytes / (read - written):.0f} MB/s"
    return [Finding("store", f"round trip of {megabytes:.0f} MB, {rates}")]


def check_file_system(folder: Path) -> list[Finding]:
    """What leases, atomic outputs and HDF5 ask of the file system of the results."""
    findings = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as name:
        probe = Path(name)
        findings += [_check_exclusive(probe), _check_rename(probe), _check_clock(probe)]
        findings.append(_check_locks(probe))
    free = shutil.disk_usage(folder).free
    advice = "set paths.results to a folder of the parallel file system"
    result = f"{free / 1e9:.0f} GB free"
    findings.append(
        Finding("space", result) if free > _FREE_BYTES else Finding("space", result, "note", advice)
    )
    return findings


def check_scheduler(allocation: Allocation) -> list[Finding]:
    """Time left, and whether the scheduler can tell Snakemake how jobs end."""
    left = seconds_left(allocation)
    if allocation.scheduler == "none":
        return [Finding("scheduler", "none: no limit of time")]
    job = f"{allocation.scheduler} job {allocation.job}"
    findings = [Finding("scheduler", job)]
    if left is None:
        advice = "trainings then count from the runtime of their rule"
        findings.append(Finding("walltime left", "unknown", "note", advice))
    else:
        findings.append(Finding("walltime left", f"{left / 60:.0f} min"))
    if allocation.scheduler == "slurm" and shutil.which("sacct"):
        answer = run_client("sacct", "--jobs", allocation.job, "--noheader")
        advice = "Snakemake would never see a job end: set slurm-status-command: squeue"
        findings.append(
            Finding("sacct", "answers")
            if answer is not None
            else Finding("sacct", "does not answer", "FAULT", advice)
        )
    return findings


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
    properties = (
        torch.cuda.get_device_properties(device)
        if device.type == "cuda"
        else torch.xpu.get_device_properties(device)
    )
    # The index alone says nothing where each rank sees only one device.
    return str(getattr(properties, "uuid", device.index))


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gather(rank: Rank, context: RankContext) -> list[Rank]:
    if context.world_size == 1:
        return [rank]
    ranks: list[Any] = [None] * context.world_size
    dist.all_gather_object(ranks, rank)
    return ranks


def _check_all_reduce(context: RankContext) -> Finding:
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


def _check_exclusive(folder: Path) -> Finding:
    path = folder / "exclusive"
    path.open("x").close()
    try:
        path.open("x").close()
    except FileExistsError:
        return Finding("exclusive creation", "works")
    advice = "two jobs could write one output: use another file system for paths.results"
    return Finding("exclusive creation", "creates a file that exists", "FAULT", advice)


def _check_rename(folder: Path) -> Finding:
    old, new = folder / "old", folder / "new"
    for path in (old, new):
        path.mkdir()
    (old / "content").write_text("whole")
    try:
        old.rename(new)
    except OSError as error:
        advice = "outputs could appear half written: use another file system for paths.results"
        return Finding("rename", str(error), "FAULT", advice)
    return Finding("rename", "replaces a folder at once")


def _check_clock(folder: Path) -> Finding:
    path = folder / "clock"
    before = time.time()
    path.touch()
    skew = path.stat().st_mtime - before
    if abs(skew) <= _CLOCK_TOLERANCE_S:
        return Finding("clock", f"within {_CLOCK_TOLERANCE_S:.0f} s of the file system's")
    advice = "Snakemake compares times of files: outputs may look older than inputs; tell the site"
    return Finding("clock", f"{skew:+.0f} s from the file system's", "FAULT", advice)


def _check_locks(folder: Path) -> Finding:
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            advice = "reading HDF5 fails here unless env.sh exports HDF5_USE_FILE_LOCKING=FALSE"
            return Finding("file locks", f"{error}", "note", advice)
    return Finding("file locks", "work")


def _has_network_plugin(environment: Mapping[str, str]) -> bool:
    folders = environment.get("LD_LIBRARY_PATH", "").split(":")
    names = ("librccl-net.so", "libnccl-net.so", "libnccl-net-ofi.so")
    return "NCCL_NET_PLUGIN" in environment or any(
        (Path(folder) / name).exists() for folder in folders if folder for name in names
    )


def _adios_has_mpi() -> bool:
    import adios2

    return bool(adios2.is_built_with_mpi)


def _torch_build() -> str:
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return "XPU" if torch.xpu._is_compiled() else "CPU only"


def _made_up(count: int) -> StructureBatch:
    rng = np.random.default_rng(0)
    atoms = 10 * count
    return StructureBatch.from_labels(
        num_atoms=np.full(count, 10),
        atomic_numbers=rng.integers(1, 90, atoms),
        positions=rng.normal(size=(atoms, 3)).astype(np.float32),
        energy=rng.normal(size=count),
        forces=rng.normal(size=(atoms, 3)).astype(np.float32),
        group=np.arange(count),
    )
