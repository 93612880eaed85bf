"""Starts ranks, and tells them what the environment says. See `ranks` for how they meet."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final, Literal

from mtlpar.parallel.allocation import Allocation, seconds_left
from mtlpar.parallel.mpi_pair import MpiPair, look_at, look_at_pals, look_at_srun

logger = logging.getLogger(__name__)

Launcher = Literal["auto", "srun", "pals", "mpiexec", "torchrun", "none"]

LAUNCHERS: Final[tuple[Launcher, ...]] = ("auto", "srun", "pals", "mpiexec", "torchrun", "none")

EXPECTED_WORLD_SIZE: Final = "MTLPAR_EXPECTED_WORLD_SIZE"
"""Variable in which `launch` says how many ranks it starts."""

_SRUN_MPI: Final = "MTLPAR_SRUN_MPI"
_GPU_BIND: Final = "MTLPAR_GPU_BIND"
_CPU_BIND: Final = "MTLPAR_CPU_BIND"
_GEOMETRY: Final = "MTLPAR_GEOMETRY"
# Slurm's last: a job's own shell has it too, whoever starts the ranks in it.
_RANK_NUMBER: Final = (
    "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "RANK", "PALS_RANKID", "SLURM_PROCID",
)  # fmt: skip
_DEADLINE: Final = "MTLPAR_DEADLINE"
_ENDED: Final = "MTLPAR_ENDED"
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# What a job that asked for tasks by GPU hands on to srun, which then refuses our geometry.
_BY_GPU: Final = ("SLURM_NTASKS_PER_GPU", "SLURM_TRES_PER_TASK")
# Kept back from the walltime, for the launcher to start, the last checkpoint and the clean-up.
_RESERVE_S: Final = 120.0
_RESERVE_FRACTION: Final = 0.1
# Launchers on one machine kill all ranks within a tenth of a second after one has died. This stands
# between them and a rank: it says what ended the rank, and hides it for as long as the others may
# take to say where that left them; they end the run themselves. Signals are the rank's business.
# Before MPI has started and while it ends no launcher notices: it is written where others look.
_RANK: Final = """\
trap : HUP INT TERM USR1 USR2
"$@"
status=$?
rank=${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-$RANK}}
{ echo "rank $rank ended with status $status" >> "$MTLPAR_ENDED"; } 2> /dev/null
case $status in 134 | 135 | 136 | 137 | 139)
    echo "rank $rank was ended by signal $((status - 128)) ($(kill -l $((status - 128))))" >&2
    for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        ended=$(wc -l < "$MTLPAR_ENDED") 2> /dev/null
        [ "${ended:-0}" -lt "${MTLPAR_EXPECTED_WORLD_SIZE:-99999999}" ] || break
        sleep 1
    done ;;
esac
exit $status"""
_ONE_RANK: Final = ("sh", "-c", _RANK, "rank")


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Shape of a parallel run; it comes from the rule's resources, never from the scheduler.

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

    def __post_init__(self) -> None:
        for name in ("nodes", "ranks_per_node", "cpus_per_rank"):
            if getattr(self, name) < 1:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} {getattr(self, name)}: expected at least one")

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
        program = find_program("mpiexec") or "mpiexec"
        prefix = [program, "-n", str(geometry.world_size), *_ONE_RANK]
    elif kind == "torchrun":
        program = find_program("torchrun") or "torchrun"
        size = f"--nproc-per-node={geometry.world_size}"
        prefix = [program, "--standalone", "--no-python", size, *_ONE_RANK]
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

    Raises:
        ValueError: If there is no such launcher, it cannot start these ranks, or it is of another
            MPI than the one by which they meet.
    """
    line = launch_command(geometry, command, launcher=launcher)
    if shutil.which(line[0]) is None:
        raise ValueError(f"{line[0]!r} is not on PATH; cannot run {shlex.join(line)}")
    pair = mpi_pair(geometry, launcher=launcher)
    if pair and pair.differ:
        raise ValueError(f"ranks would not find each other: {pair}; {pair.advice}")
    logger.debug("%s", pair)
    variables = {
        **_without_gpu_geometry(os.environ),
        # All of them: torch takes the largest, and Snakemake sets them to the threads of the rule,
        # which are those of all ranks together. Ranks that share cores would spin for each other.
        **dict.fromkeys(_THREADS, str(geometry.cpus_per_rank)),
        EXPECTED_WORLD_SIZE: str(geometry.world_size),
        _GEOMETRY: geometry.as_text(),
    }
    if _RANK in line and hasattr(os, "memfd_create"):
        # In memory, and in the process that this one becomes: it goes when the launcher goes.
        ended = os.memfd_create("ranks that ended", 0)
        variables[_ENDED] = f"/proc/{os.getpid()}/fd/{ended}"
    left = seconds_left(current_allocation(), walltime_min=walltime_min)
    if left is not None:
        reserve = min(_RESERVE_S, _RESERVE_FRACTION * left)
        variables[_DEADLINE] = f"{time.time() + left - reserve:.0f}"
    logger.info("%s", shlex.join(line).replace(f"{shlex.join(_ONE_RANK)} ", ""))
    os.execvpe(line[0], line, variables)


def mpi_pair(geometry: Geometry, *, launcher: Launcher = "auto") -> MpiPair | None:
    """What would start these ranks and the MPI by which they would meet; None if they need none.

    Args:
        geometry: Shape of the run.
        launcher: As in `launch_command`.
    """
    kind = _detect(geometry, os.environ) if launcher == "auto" else launcher
    if geometry.world_size == 1:
        return None
    if kind == "srun":
        return look_at_srun(os.environ.get(_SRUN_MPI, ""))
    if kind == "pals":
        return look_at_pals("mpiexec")
    program = find_program("mpiexec") if kind == "mpiexec" else None
    return look_at(program) if program else None


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


def launched_as(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Number of this process among those that `launch` started, and how many it started.

    Args:
        environment: Variables to look at; those of this process by default.
    """
    variables = os.environ if environment is None else environment
    size = int(variables.get(EXPECTED_WORLD_SIZE, "1"))
    numbers = (int(variables[name]) for name in _RANK_NUMBER if name in variables)
    return (next(numbers, 0), size) if size > 1 else (0, 1)


def ended_ranks() -> Path | None:
    """File on this machine with a line for each rank that ended; None if nobody writes it."""
    path = os.environ.get(_ENDED)
    return Path(path) if path else None


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


def _without_gpu_geometry(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment, less what would overrule the geometry that the rule asked for."""
    for name in sorted(variables.keys() & set(_BY_GPU)):
        logger.warning(
            "%s=%s is left out: the job asked for tasks by GPU. In the profile use tasks_per_node "
            "and gres, never tasks or gpu",
            name,
            variables[name],
        )
    return {name: value for name, value in variables.items() if name not in _BY_GPU}


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
            if find_program(program):
                return program
    return "none"


def find_program(name: str) -> str | None:
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
