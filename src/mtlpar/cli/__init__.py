"""The command line: parses arguments, checks the config, and calls one stage. No logic.

Each module here adds a group of commands; a new command is one function `add_...` and one that
runs it.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Sequence

from mtlpar import __version__
from mtlpar.cli import (
    cluster,
    data,
    launch,
    model_files,
    models,
    packs,
    plan,
    report,
    sample,
    study,
)
from mtlpar.core.log import set_up_logging
from mtlpar.parallel.agree import EndedTogether, Interrupted

logger = logging.getLogger(__name__)

INTERRUPTED = 75
"""Exit status of a run that was stopped in good order and is to be continued (EX_TEMPFAIL)."""

# What to do about what a system refuses for reasons that the user can do away with.
_ADVICE = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        "Free space or correct permissions there, then run again",
    ),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
        "Something else is in the way there: move it, or name another place",
    ),
    **dict.fromkeys(
        (errno.ENAMETOOLONG, errno.ELOOP),
        "Correct that name or link, or name another place",
    ),
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE),
        "The file system there has failed: run again, or ask those who run it",
    ),
}

# In the order of `mtlpar --help`: the stages first.
_GROUPS = (data, packs, models, report, model_files, plan, study, sample, launch, cluster)


class _Help(argparse.HelpFormatter):
    """Gives the names of commands the room they need, which argparse forgets to indent for."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            names = (len(name) for name in action.choices)
            self._action_max_length = max(self._action_max_length, *(n + 6 for n in names))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; mistakes of the user end with one clear line."""
    options = build_parser().parse_args(arguments)
    set_up_logging(verbose=options.verbose)
    try:
        options.command(options)
        sys.stdout.flush()
    except EndedTogether as end:
        is_error = not isinstance(end, Interrupted)
        if end.is_told_here:
            logger.error("error: %s", end) if is_error else logger.warning("%s", end)
        return 1 if is_error else INTERRUPTED
    except ValueError as error:
        logger.error("error: %s", error)
        return 1
    except KeyboardInterrupt:
        logger.error("interrupted")
        return 130
    except BrokenPipeError:
        # Whoever reads the output, such as `head`, has seen enough. Python would flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        logger.error("error: %s%s. %s", where, error.strerror, _ADVICE[error.errno])
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="mtlpar",
        description="Pre-trains graph foundation models on several atomistic datasets with "
        "multi-task parallelism. Each stage of the workflow is a command; "
        "`snakemake` runs them all in order.",
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"mtlpar {__version__}")
    commands = parser.add_subparsers(title="stages and tools", metavar="COMMAND", required=True)
    for group in _GROUPS:
        group.add_commands(commands)
    return parser
