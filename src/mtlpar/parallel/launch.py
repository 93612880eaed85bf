"""How ranks start and find each other. Only this module reads environment variables."""

from __future__ import annotations

import datetime
import logging
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from mtlpar.parallel.agree import AgreedError, Interrupted

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Launcher = Literal["auto", "srun", "pals", "mpiexec", "none"]

_EXPECTED_WORLD_SIZE: Final = "MTLPAR_EXPECTED_WORLD_SIZE"
_SRUN_MPI: Final = "MTLPAR_SRUN_MPI"
_GPU_BIND: Final = "MTLPAR_GPU_BIND"
_CPU_BIND: Final = "MTLPAR_CPU_BIND"
_HOST_SUFFIX: Final = "MTLPAR_HOST_SUFFIX"
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LAUNCHED_BY: Final = ("PMI_RANK", "PMIX_RANK", "SLURM_PROCID", "PALS_RANKID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Shape of a parallel run; it comes from the rule's resources, never from the environment.

    Attributes:
        nodes: Number of nodes.
        ranks_per_node: Ranks on each.
        cpus_per_rank: Cores of each rank.
        gpus_per_node: Accelerators of each node.
    """

    nodes: int = 1
    ranks_per_node: int = 1
    cpus_per_rank: int = 1
    gpus_per_node: int = 0

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True, slots=True)
class RankContext:
    """Who this process is.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
        device: Where its model lives.
    """

    rank: int
    world_size: int
    device: torch.device


def launch_command(
    geometry: Geometry,
    command: Sequence[str],
    *,
    launcher: Launcher = "auto",
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """Command line that starts ``command`` on all ranks.

    Args:
        geometry: Shape of the run.
        command: Program and arguments of one rank.
        launcher: ``srun`` (Slurm), ``pals`` (PBS with Cray PALS), ``mpiexec``, ``none``, or
            ``auto`` to recognise the allocation.
        environment: Variables to look at; those of this process by default.
    """
    variables = os.environ if environment is None else environment
    kind = _detect(geometry, variables) if launcher == "auto" else launcher
    ranks = geometry.world_size
    if kind == "srun":
        prefix = [
            "srun",
            f"--nodes={geometry.nodes}",
            f"--ntasks={ranks}",
            f"--ntasks-per-node={geometry.ranks_per_node}",
            f"--cpus-per-task={geometry.cpus_per_rank}",
            "--kill-on-bad-exit=1",
            *_srun_gpus(geometry, variables),
        ]
        if variables.get(_SRUN_MPI):
            prefix.append(f"--mpi={variables[_SRUN_MPI]}")
    elif kind == "pals":
        binding = variables.get(_CPU_BIND)
        prefix = ["mpiexec", "-n", str(ranks), "--ppn", str(geometry.ranks_per_node), "--envall"]
        prefix += (
            [f"--cpu-bind={binding}"]
            if binding
            else [f"--depth={geometry.cpus_per_rank}", "--cpu-bind=depth"]
        )
    elif kind == "mpiexec":
        prefix = [_find_program("mpiexec") or "mpiexec", "-n", str(ranks)]
    else:
        if ranks > 1:
            raise ValueError(
                f"{ranks} ranks were asked for, but there is no launcher: install the extra "
                "mtlpar[mpi] for mpiexec, or run inside a Slurm or PBS allocation"
            )
        prefix = []
    return [*prefix, *command]


def launch(geometry: Geometry, command: Sequence[str], *, launcher: Launcher = "auto") -> None:
    """Replace this process by the launcher, so that signals and the exit status pass through."""
    line = launch_command(geometry, command, launcher=launcher)
    if shutil.which(line[0]) is None:
        raise ValueError(f"{line[0]!r} is not on PATH; cannot run {shlex.join(line)}")
    environment = {
        **os.environ,
        # All of them: torch takes the largest, and Snakemake sets them to the threads of the rule,
        # which are those of all ranks together. Ranks that share cores would spin for each other.
        **dict.fromkeys(_THREADS, str(geometry.cpus_per_rank)),
        _EXPECTED_WORLD_SIZE: str(geometry.world_size),
    }
    os.execvpe(line[0], line, environment)


@contextmanager
def distributed_context(*, timeout_s: float = 600.0) -> Iterator[RankContext]:
    """Join the ranks of this run, or be the only one, for as long as the block lasts.

    Ranks meet through MPI; rank 0 opens the store that torch meets at. A process that no launcher
    started is a world of one and needs no MPI.

    Raises:
        ValueError: If the launcher announced another number of ranks than MPI finds: the usual
            sign of a launcher and an MPI library that do not belong together.
    """
    launched = any(name in os.environ for name in _LAUNCHED_BY)
    expected = int(os.environ.get(_EXPECTED_WORLD_SIZE, "0"))
    if not launched:
        _check_world(1, expected)
        yield RankContext(0, 1, local_device())
        return
    # Cray systems need MPI initialised before torch loads its communication libraries.
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    _check_world(world.size, expected)
    if world.size == 1:
        yield RankContext(0, 1, local_device())
        return
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    single_host = node.size == world.size
    local_rank = node.rank
    node.Free()
    import torch.distributed as dist
    from torch._C._distributed_c10d import TCPStore

    device = local_device(local_rank)
    backend = {"cuda": "nccl", "xpu": "xccl", "cpu": "gloo"}[device.type]
    timeout = datetime.timedelta(seconds=timeout_s)
    host = "127.0.0.1" if single_host else socket.gethostname() + os.environ.get(_HOST_SUFFIX, "")
    host = world.bcast(host)
    store = None
    if world.rank == 0:
        store = TCPStore(host, 0, None, True, timeout=timeout, wait_for_workers=False)
    port = world.bcast(store.port if store else None)
    store = store or TCPStore(host, port, None, False, timeout=timeout)
    dist.init_process_group(
        backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout
    )
    try:
        yield RankContext(world.rank, world.size, device)
    except (AgreedError, Interrupted):
        # All ranks are here: they leave one by one, and nobody waits for another.
        dist.destroy_process_group()
        raise
    except BaseException:
        # The other ranks wait in a collective and would wait for ever: end them all.
        logger.exception("rank %d of %d failed; stopping all ranks", world.rank, world.size)
        world.Abort(1)
        raise
    dist.destroy_process_group()


def _detect(geometry: Geometry, variables: Mapping[str, str]) -> Launcher:
    if "SLURM_JOB_ID" in variables and shutil.which("srun"):
        return "srun"
    if "PBS_JOBID" in variables and shutil.which("mpiexec"):
        return "pals"
    if geometry.world_size > 1 and _find_program("mpiexec"):
        return "mpiexec"
    return "none"


def _find_program(name: str) -> str | None:
    """Where a program of this environment is, or else one on PATH.

    The environment comes first, because the ``mpiexec`` of its ``mpich`` package belongs to its
    ``mpi4py`` and one elsewhere may not, and because nobody has to activate an environment to use
    its ``python``.
    """
    beside = Path(sys.executable).parent / name
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(name)


def _srun_gpus(geometry: Geometry, variables: Mapping[str, str]) -> list[str]:
    if not geometry.gpus_per_node:
        return []
    binding = variables.get(_GPU_BIND, "closest")
    if binding == "none":
        return [f"--gpus-per-node={geometry.gpus_per_node}", "--gpu-bind=none"]
    per_rank = max(1, geometry.gpus_per_node // geometry.ranks_per_node)
    return [f"--gpus-per-task={per_rank}", f"--gpu-bind={binding}"]


def _check_world(found: int, expected: int) -> None:
    if expected and found != expected:
        raise ValueError(
            f"MPI finds {found} rank(s), but {expected} were launched: launcher and MPI library do "
            "not belong together. Under Slurm set MTLPAR_SRUN_MPI (pmi2 for the mpich wheel); "
            "elsewhere use the mpiexec of the MPI that mpi4py was built with."
        )


def local_device(local_rank: int = 0) -> torch.device:
    """The accelerator of a rank on its node, or the CPU.

    Works whether a rank sees one device or all of its node.
    """
    import torch

    if torch.cuda.is_available():
        index = local_rank % torch.cuda.device_count()
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        index = local_rank % torch.xpu.device_count()
        torch.xpu.set_device(index)
        return torch.device("xpu", index)
    return torch.device("cpu")
