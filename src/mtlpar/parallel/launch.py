"""How ranks start and find each other. Only this module reads environment variables."""

from __future__ import annotations

import datetime
import logging
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from mtlpar.parallel.agree import AgreedError, Interrupted
from mtlpar.parallel.allocation import Allocation, seconds_left

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

logger = logging.getLogger(__name__)

Launcher = Literal["auto", "srun", "pals", "mpiexec", "torchrun", "none"]

LAUNCHERS: Final[tuple[Launcher, ...]] = ("auto", "srun", "pals", "mpiexec", "torchrun", "none")

_EXPECTED_WORLD_SIZE: Final = "MTLPAR_EXPECTED_WORLD_SIZE"
_SRUN_MPI: Final = "MTLPAR_SRUN_MPI"
_GPU_BIND: Final = "MTLPAR_GPU_BIND"
_CPU_BIND: Final = "MTLPAR_CPU_BIND"
_HOST_SUFFIX: Final = "MTLPAR_HOST_SUFFIX"
_GEOMETRY: Final = "MTLPAR_GEOMETRY"
_DEADLINE: Final = "MTLPAR_DEADLINE"
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LAUNCHED_BY: Final = ("PMI_RANK", "PMIX_RANK", "SLURM_PROCID", "PALS_RANKID")
_PROCESS_MANAGER: Final = ("PMI_RANK", "PMIX_RANK", "PALS_RANKID")
_TORCHRUN: Final = "TORCHELASTIC_RUN_ID"
_TORCHRUN_RANK: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# Kept back from the walltime, for the launcher to start, the last checkpoint and the clean-up.
_RESERVE_S: Final = 120.0
_RESERVE_FRACTION: Final = 0.1


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

    def as_text(self) -> str:
        """The four numbers, for `from_text`."""
        return " ".join(map(str, astuple(self)))

    @classmethod
    def from_text(cls, text: str) -> Geometry:
        """The geometry that `as_text` wrote."""
        nodes, ranks, cpus, gpus = map(int, text.split())
        return cls(nodes=nodes, ranks_per_node=ranks, cpus_per_rank=cpus, gpus_per_node=gpus)


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
        launcher: ``srun`` (Slurm), ``pals`` (PBS with Cray PALS), ``mpiexec``, ``torchrun``,
            ``none``, or ``auto`` to recognise the allocation.
        environment: Variables to look at; those of this process by default.

    Raises:
        ValueError: If the launcher cannot start that many ranks, or on that many nodes.
    """
    variables = os.environ if environment is None else environment
    kind = _detect(geometry, variables) if launcher == "auto" else launcher
    _check_launcher(kind, geometry)
    if kind == "srun":
        prefix = _srun(geometry, variables)
    elif kind == "pals":
        prefix = _pals(geometry, variables)
    elif kind == "mpiexec":
        prefix = [_find_program("mpiexec") or "mpiexec", "-n", str(geometry.world_size)]
    elif kind == "torchrun":
        prefix = [_find_program("torchrun") or "torchrun", "--standalone", "--no-python"]
        prefix.append(f"--nproc-per-node={geometry.world_size}")
    else:
        prefix = []
    return [*prefix, *command]


def launch(
    geometry: Geometry,
    command: Sequence[str],
    *,
    launcher: Launcher = "auto",
    walltime_min: float | None = None,
) -> None:
    """Replace this process by the launcher, so that signals and the exit status pass through.

    Args:
        geometry: Shape of the run.
        command: Program and arguments of one rank.
        launcher: As in `launch_command`.
        walltime_min: Minutes that the job asked for; ranks learn from it when to stop.
    """
    line = launch_command(geometry, command, launcher=launcher)
    if shutil.which(line[0]) is None:
        raise ValueError(f"{line[0]!r} is not on PATH; cannot run {shlex.join(line)}")
    variables = {
        **os.environ,
        # All of them: torch takes the largest, and Snakemake sets them to the threads of the rule,
        # which are those of all ranks together. Ranks that share cores would spin for each other.
        **dict.fromkeys(_THREADS, str(geometry.cpus_per_rank)),
        _EXPECTED_WORLD_SIZE: str(geometry.world_size),
        _GEOMETRY: geometry.as_text(),
    }
    left = seconds_left(current_allocation(), walltime_min=walltime_min)
    if left is not None:
        reserve = min(_RESERVE_S, _RESERVE_FRACTION * left)
        variables[_DEADLINE] = f"{time.time() + left - reserve:.0f}"
    logger.info("%s", shlex.join(line))
    os.execvpe(line[0], line, variables)


def current_allocation(environment: Mapping[str, str] | None = None) -> Allocation:
    """The scheduler's job that this process runs in.

    Args:
        environment: Variables to look at; those of this process by default.
    """
    variables = os.environ if environment is None else environment
    nodes = announced_geometry(variables).nodes
    if job := variables.get("SLURM_JOB_ID"):
        return Allocation("slurm", job, variables.get("SLURM_CLUSTER_NAME", ""), nodes)
    if job := variables.get("PBS_JOBID"):
        return Allocation("pbs", job, variables.get("PBS_O_HOST", ""), nodes)
    return Allocation(nodes=nodes)


def announced_geometry(environment: Mapping[str, str] | None = None) -> Geometry:
    """The shape of the run that `launch` started; one rank if it did not.

    Args:
        environment: Variables to look at; those of this process by default.
    """
    text = (os.environ if environment is None else environment).get(_GEOMETRY)
    return Geometry.from_text(text) if text else Geometry()


def environment() -> dict[str, str]:
    """All environment variables, for those who look for faults in them."""
    return dict(os.environ)


def time_left_s() -> float | None:
    """Seconds until a run should save its work and end; None if nothing limits it.

    `launch` found out when the job ends and kept some time back, so this may become negative with
    the job still running.
    """
    deadline = os.environ.get(_DEADLINE)
    return float(deadline) - time.time() if deadline else None


@contextmanager
def distributed_context(
    *, timeout_s: float = 600.0, first: Callable[[int], None] | None = None
) -> Iterator[RankContext]:
    """Join the ranks of this run, or be the only one, for as long as the block lasts.

    Ranks meet through MPI; rank 0 opens the store that torch meets at. Under torchrun they meet
    through torch alone. A process that no launcher started is a world of one and needs no MPI.

    Args:
        timeout_s: How long a rank waits for another in a collective.
        first: What rank 0 does with the number of ranks before they meet, however long it takes:
            the others wait.

    Raises:
        ValueError: If the launcher announced another number of ranks than there are: the usual
            sign of a launcher and an MPI library that do not belong together.
    """
    expected = _expected_world_size(os.environ)
    timeout = datetime.timedelta(seconds=timeout_s)
    if _TORCHRUN in os.environ:
        _check_world(int(os.environ["WORLD_SIZE"]), expected)
        with _torchrun_ranks(timeout, first) as context:
            yield context
        return
    if any(name in os.environ for name in _LAUNCHED_BY):
        # Cray systems need MPI initialised before torch loads its communication libraries.
        from mpi4py import MPI

        _check_world(MPI.COMM_WORLD.size, expected)
        if MPI.COMM_WORLD.size > 1:
            with _mpi_ranks(timeout, first) as context:
                yield context
            return
    else:
        _check_world(1, expected)
    if first:
        first(1)
    yield RankContext(0, 1, local_device())


@contextmanager
def _mpi_ranks(
    timeout: datetime.timedelta, first: Callable[[int], None] | None
) -> Iterator[RankContext]:
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    single_host, local_rank = node.size == world.size, node.rank
    node.Free()
    try:
        if first and world.rank == 0:
            first(world.size)
        from torch._C._distributed_c10d import TCPStore

        host = socket.gethostname() + os.environ.get(_HOST_SUFFIX, "")
        host = world.bcast("127.0.0.1" if single_host else host)
        store = None
        if world.rank == 0:
            store = TCPStore(host, 0, None, True, timeout=timeout, wait_for_workers=False)
        port = world.bcast(store.port if store else None)
        store = store or TCPStore(host, port, None, False, timeout=timeout)
        context = RankContext(world.rank, world.size, local_device(local_rank))
        with _process_group(context, store, timeout):
            yield context
    except (AgreedError, Interrupted):
        # All ranks agreed to end here.
        raise
    except BaseException:
        # The other ranks wait in a collective and would wait for ever: end them all.
        logger.exception("rank %d of %d failed; stopping all ranks", world.rank, world.size)
        world.Abort(1)
        raise


@contextmanager
def _torchrun_ranks(
    timeout: datetime.timedelta, first: Callable[[int], None] | None
) -> Iterator[RankContext]:
    from torch._C._distributed_c10d import TCPStore

    rank, size, local_rank = (int(os.environ[name]) for name in _TORCHRUN_RANK)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun's own store lives in its agent; ranks are its clients.
    store = TCPStore(host, port, None, False, timeout=timeout)
    if rank == 0:
        if first:
            first(size)
        store.set("mtlpar/first", "done")
    store.wait(["mtlpar/first"], datetime.timedelta(days=365))
    context = RankContext(rank, size, local_device(local_rank))
    with _process_group(context, store, timeout):
        yield context


@contextmanager
def _process_group(
    context: RankContext, store: Store, timeout: datetime.timedelta
) -> Iterator[None]:
    import torch.distributed as dist

    backend = {"cuda": "nccl", "xpu": "xccl", "cpu": "gloo"}[context.device.type]
    dist.init_process_group(
        backend, store=store, rank=context.rank, world_size=context.world_size, timeout=timeout
    )
    try:
        yield
    except (AgreedError, Interrupted):
        # All ranks are here: they leave one by one, and nobody waits for another.
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _check_launcher(kind: Launcher, geometry: Geometry) -> None:
    """Refuse what would start fewer ranks, or all of them on one node, without a word."""
    if kind == "none" and geometry.world_size > 1:
        raise ValueError(
            f"{geometry.world_size} ranks were asked for, but there is no launcher: install the "
            "extra mtlpar[mpi] for mpiexec, or run inside a Slurm or PBS allocation"
        )
    if kind in ("mpiexec", "torchrun") and geometry.nodes > 1:
        raise ValueError(
            f"{geometry.nodes} nodes were asked for, but {kind} starts ranks on this machine only; "
            "run inside a Slurm or PBS allocation, or ask for --nodes 1"
        )


def _srun(geometry: Geometry, variables: Mapping[str, str]) -> list[str]:
    line = [
        "srun",
        f"--nodes={geometry.nodes}",
        f"--ntasks={geometry.world_size}",
        f"--ntasks-per-node={geometry.ranks_per_node}",
        f"--cpus-per-task={geometry.cpus_per_rank}",
        "--kill-on-bad-exit=1",
        *_srun_gpus(geometry, variables),
    ]
    if variables.get(_SRUN_MPI):
        line.append(f"--mpi={variables[_SRUN_MPI]}")
    return line


def _pals(geometry: Geometry, variables: Mapping[str, str]) -> list[str]:
    line = ["mpiexec", "-n", str(geometry.world_size), "--ppn", str(geometry.ranks_per_node)]
    binding = variables.get(_CPU_BIND)
    if binding:
        return [*line, "--envall", f"--cpu-bind={binding}"]
    return [*line, "--envall", f"--depth={geometry.cpus_per_rank}", "--cpu-bind=depth"]


def _detect(geometry: Geometry, variables: Mapping[str, str]) -> Launcher:
    if "SLURM_JOB_ID" in variables and shutil.which("srun"):
        return "srun"
    if "PBS_JOBID" in variables and shutil.which("mpiexec"):
        return "pals"
    if geometry.world_size > 1:
        for program in ("mpiexec", "torchrun"):
            if _find_program(program):
                return program
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


def _expected_world_size(variables: Mapping[str, str]) -> int:
    """Ranks that the launcher started; 0 if it did not say."""
    if not any(name in variables for name in _PROCESS_MANAGER):
        # srun started this process, but gave MPI no way to find the others.
        return int(variables.get(_EXPECTED_WORLD_SIZE, variables.get("SLURM_STEP_NUM_TASKS", "0")))
    return int(variables.get(_EXPECTED_WORLD_SIZE, "0"))


def _check_world(found: int, expected: int) -> None:
    if expected and found != expected:
        raise ValueError(
            f"MPI finds {found} rank(s), but {expected} were launched: launcher and MPI library do "
            "not belong together. Under Slurm set MTLPAR_SRUN_MPI (pmi2 for the mpich wheel, "
            "nothing on Cray); elsewhere use the mpiexec of the MPI that mpi4py was built with."
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
