"""The command line: parses arguments, checks the config, and calls one stage. No logic.

Each module here adds a group of commands; a new command is one function `add_...` and one that
runs it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

from mtlpar import __version__
from mtlpar.cli import (
    cluster,
    data,
    distill,
    engines,
    finetune,
    init,
    launch,
    model_files,
    models,
    packs,
    plan,
    predict,
    report,
    study,
)
from mtlpar.cli.common import (
    Parser,
    log_as_launched,
    only_first_rank_prints,
    require_text,
    require_use_of_ranks,
)
from mtlpar.core.system_errors import words_of
from mtlpar.core.terminal import speak_ascii
from mtlpar.parallel.agree import EndedTogether, Interrupted
from mtlpar.parallel.launch import launched_as

logger = logging.getLogger(__name__)

INTERRUPTED = 75
"""Exit status of a run that was stopped in good order and is to be continued (EX_TEMPFAIL)."""

# In the order of `mtlpar --help`: the stages first.
_GROUPS = {
    "start": (init,),
    "data": (data, packs),
    "models": (models, finetune, distill, predict, engines, model_files),
    "results": (report,),
    "plans and measurements": (plan, study),
    "machines": (launch, cluster),
}


class _Help(argparse.HelpFormatter):
    """Lists commands by group, and gives their names room, which argparse forgets to indent for."""

    groups: ClassVar[dict[str, list[str]]] = {}

    def add_argument(self, action: argparse.Action) -> None:
        if not isinstance(action, argparse._SubParsersAction):
            super().add_argument(action)
            return
        for title, names in self.groups.items():
            self.start_section(title)
            self.add_arguments([one for one in action._get_subactions() if one.dest in names])
            self.end_section()
        longest = max(len(name) for name in action.choices)
        self._action_max_length = max(self._action_max_length, longest + 6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; mistakes of the user end with one clear line."""
    speak_ascii()
    options = parse(arguments)
    log_as_launched(options)
    try:
        require_text(sys.argv[1:] if arguments is None else arguments)
        require_use_of_ranks(options, launched_as()[1])
        with only_first_rank_prints():
            options.command(options)
            sys.stdout.flush()
    except EndedTogether as end:
        is_error = not isinstance(end, Interrupted)
        if end.reports_here:
            logger.error("error: %s", end) if is_error else logger.warning("%s", end)
        return 1 if is_error else INTERRUPTED
    except KeyboardInterrupt:
        logger.error("interrupted")
        return 130
    except BrokenPipeError:
        # Whoever reads the output, such as `head`, has seen enough. Python would flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, RuntimeError) as error:
        words = words_of(error)
        if words is None:
            raise
        logger.error("error: %s", words)
        return 1
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command and its options; ends the process where an argument is wrong.

    Args:
        arguments: Those of a command line; this process's by default.
    """
    options, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        options.parser.refuse(unknown)
    return options


@cache
def build_parser() -> argparse.ArgumentParser:
    """All commands and their options; they are the same for all commands that a process runs."""
    parser = Parser(
        prog="mtlpar",
        description="Pre-trains graph foundation models on several atomistic datasets with "
        "multi-task parallelism. Each stage of the workflow is a command; "
        "`snakemake` runs them all in order.",
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"mtlpar {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for title, modules in _GROUPS.items():
        before = set(commands.choices)
        for module in modules:
            module.add_commands(commands)
        _Help.groups[title] = [name for name in commands.choices if name not in before]
    return parser
