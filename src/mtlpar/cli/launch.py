"""The command that starts ranks."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtlpar.cli.common import add_command, require_use_of_ranks
from mtlpar.parallel.launch import LAUNCHERS

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands


def add_commands(commands: Commands) -> None:
    """Add launch."""
    parser = add_command(
        commands,
        "launch",
        _launch,
        "start a command on several ranks (srun, PALS, mpiexec or torchrun)",
    )
    parser.add_argument("--nodes", type=int, default=1, help="number of nodes")
    parser.add_argument(
        "--ranks-per-node", "--ppn", type=int, default=1, metavar="N", help="ranks per node"
    )
    parser.add_argument("--cpus-per-rank", type=int, default=1, help="cores per rank")
    parser.add_argument("--gpus-per-node", type=int, default=0, help="accelerators per node")
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="auto",
        help="how to start the ranks (default: detected from the allocation)",
    )
    parser.add_argument(
        "--walltime-min",
        type=float,
        metavar="MINUTES",
        help="walltime of the job, so that ranks stop in time if the scheduler does not report it",
    )
    parser.add_argument(
        "line", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="command to run"
    )


def _launch(options: argparse.Namespace) -> None:
    from mtlpar.parallel.launch import Geometry, launch

    line = options.line[1:] if options.line[:1] == ["--"] else options.line
    if not line:
        raise ValueError("nothing to launch; give the command after --")
    geometry = Geometry(
        nodes=options.nodes,
        ranks_per_node=options.ranks_per_node,
        cpus_per_rank=options.cpus_per_rank,
        gpus_per_node=options.gpus_per_node,
    )
    launch(
        geometry,
        _as_found(line, geometry.world_size),
        launcher=options.launcher,
        walltime_min=options.walltime_min,
    )


def _as_found(line: Sequence[str], ranks: int) -> list[str]:
    """The command of a rank, looked at once: each rank would say the same about a mistake.

    Raises:
        ValueError: If there is no such program, or a command of ours has a mistake or runs in one
            process.
    """
    program, *arguments = line
    is_found = shutil.which(program) is not None
    if program == "mtlpar":
        _require_no_mistake(arguments, ranks)
        # Called by its path, from an environment that the shell does not know.
        return [*([program] if is_found else [sys.executable, "-m", program]), *arguments]
    if not is_found:
        raise ValueError(f"{program}: no such program, here or in PATH; give a command after --")
    return [program, *arguments]


def _require_no_mistake(arguments: Sequence[str], ranks: int) -> None:
    from mtlpar.cli import parse

    options = parse(arguments)
    require_use_of_ranks(options, ranks)
    if "before_ranks" in options:
        options.before_ranks(options)
