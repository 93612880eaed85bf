"""Checks of what is installed and set: versions, environment variables, the scheduler."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import site
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from mtlpar.machine.finding import Finding, Level
from mtlpar.parallel.allocation import Allocation, run_client, seconds_left
from mtlpar.parallel.launch import Geometry, mpi_pair

_PACKAGES: Final = ("mtlpar", "torch", "torch_geometric", "numpy", "adios2", "mpi4py", "snakemake")


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


def check_mpi() -> list[Finding]:
    """Whether what starts ranks here and mpi4py's library are of one MPI."""
    pair = mpi_pair(Geometry(ranks_per_node=2))
    if pair is None:
        return [Finding("MPI", "no mpiexec here; under Slurm ranks are started by srun")]
    if pair.differ:
        return [Finding("MPI", str(pair), "FAULT", pair.advice)]
    return [Finding("MPI", str(pair))]


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
        (
            torch.version.hip is not None and "MIOPEN_USER_DB_PATH" not in environment,
            "no MIOPEN_USER_DB_PATH",
            "note",
            "processes that share MIOpen's cache in the home folder may hang: put it on the node",
        ),
    ]
    found = [
        Finding("environment", what, level, advice)
        for is_wrong, what, level, advice in known
        if is_wrong
    ]
    return found or [Finding("environment", "no setting that is known to hurt")]


def check_scheduler(allocation: Allocation) -> list[Finding]:
    """Time left, and whether accounting knows how jobs ended."""
    if allocation.scheduler == "none":
        return [Finding("scheduler", "none: no time limit"), *_check_accounting()]
    left = seconds_left(allocation)
    findings = [Finding("scheduler", f"{allocation.scheduler} job {allocation.job}")]
    if left is None:
        advice = "trainings then count from the runtime of their rule"
        findings.append(Finding("walltime left", "unknown", "note", advice))
    else:
        findings.append(Finding("walltime left", f"{left / 60:.0f} min"))
    return [*findings, *(_check_accounting() if allocation.scheduler == "slurm" else ())]


def _check_accounting() -> list[Finding]:
    """Whether ``sacct``, where there is one, knows how jobs ended; of jobs since now, so few.

    It is no fault that it does not: Snakemake can ask squeue, and where it would not it does not
    start (`mtlpar.flow.accounting`).
    """
    if not shutil.which("sacct"):
        return []
    if run_client("sacct", "--noheader", "--starttime=now") is not None:
        return [Finding("sacct", "answers")]
    advice = "no accounting: the profile needs slurm-status-command: squeue"
    return [Finding("sacct", "does not answer", "note", advice)]


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
