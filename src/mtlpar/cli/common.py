"""What commands share: how one is added, the config, and the choice of sources."""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from mtlpar.cli.examples import EXAMPLES
from mtlpar.core.collective import collective, is_collective
from mtlpar.core.log import set_up_logging
from mtlpar.parallel.launch import launched_as

# What only some commands need is imported where they need it: `mtlpar --help` answers at once, and
# so does a wrong path.
if TYPE_CHECKING:
    from mtlpar.config import Config
    from mtlpar.core.share import Share
    from mtlpar.parallel.ranks import RankContext

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Command = Callable[[argparse.Namespace], None]
Stage = Callable[..., None]


class Parser(argparse.ArgumentParser):
    """Suggests what was probably meant where a command or an option is unknown."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = () if action.choices is None else tuple(map(str, action.choices))
        near = difflib.get_close_matches(str(value), choices, n=1)
        if near and value not in choices:
            raise argparse.ArgumentError(action, f"no {value!r}; did you mean {near[0]!r}?")
        super()._check_value(action, value)

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """End with what to write instead of arguments that this command does not take."""
        from mtlpar.config.explain import setting_keys

        first, _, value = unknown[0].partition("=")
        value = value or next((word for word in unknown[1:2] if not word.startswith("-")), "VALUE")
        settings = setting_keys(first.lstrip("-").replace("-", "_"))
        near = difflib.get_close_matches(first, self._option_string_actions, n=1)
        hint = ""
        if first.startswith("-") and settings and "--set" in self._option_string_actions:
            hint = f"; it is a setting: {' or '.join(f'--set {key}={value}' for key in settings)}"
        elif first.startswith("-") and near:
            hint = f"; did you mean {near[0]}?"
        self.error(f"unknown argument {first}{hint}")


Result = TypeVar("Result")


def add_command(
    commands: Commands, name: str, command: Command, summary: str
) -> argparse.ArgumentParser:
    """Add a command that calls ``command`` with its options.

    Args:
        commands: The list of commands.
        name: What users type.
        command: What runs.
        summary: One line for ``--help``, in lower case and without a full stop.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.epilog = f"example:\n  {EXAMPLES[parser.prog.removeprefix('mtlpar ')]}"
    parser.set_defaults(command=command, parser=parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="log details")
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--set``; `read_config` reads them.

    ``before_ranks`` is what `mtlpar launch` calls before it starts ranks of the command.
    """
    parser.set_defaults(before_ranks=_read_if_here)
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="merge these files over ./config.yaml, where later files win; `snakemake "
        "--configfile` merges the same way",
    )
    add_overrides(parser, "override one key, such as train.epochs=5")


def add_overrides(parser: argparse.ArgumentParser, summary: str) -> None:
    """Add ``--set``."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"{summary}; may be repeated",
    )


def log_as_launched(options: argparse.Namespace) -> None:
    """Let the first rank log. Before ranks meet all do the same, and have the same to say.

    Args:
        options: What was given.
    """
    rank, size = launched_as()
    set_up_logging(rank=rank, world_size=size, verbose=options.verbose, others=logging.ERROR)


@contextmanager
def only_first_rank_prints() -> Iterator[None]:
    """Inside this block only the first of the ranks that `mtlpar launch` started prints."""
    if launched_as()[0] == 0:
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def require_use_of_ranks(options: argparse.Namespace, ranks: int) -> None:
    """Refuse several ranks of a command in which they do not meet: each would do all of its work.

    Args:
        options: What was given.
        ranks: Number of ranks.

    Raises:
        ValueError: If there are several and they would not meet.
    """
    if ranks > 1 and not is_collective(options.command):
        more = "; --jobs N gives it several processes" if "jobs" in options else ""
        raise ValueError(
            f"{options.parser.prog} runs in one process, and was launched on {ranks} ranks: start "
            f"it without mtlpar launch{more}"
        )


def require_positive(options: argparse.Namespace, *names: str) -> None:
    """Refuse zeros, what lies below, and infinity.

    Args:
        options: What was given.
        names: Options to look at, with underscores.

    Raises:
        ValueError: If one of the options that were given is not finite and above zero.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(
                f"--{name.replace('_', '-')} {value:g}: expected a finite number above zero"
            )


def require_within(options: argparse.Namespace, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Refuse numbers that are out of bounds.

    Args:
        options: What was given.
        bounds: Smallest and largest value by option, with underscores.

    Raises:
        ValueError: Names the first such option, what was given, and what is allowed.
    """
    for name, (least, most) in bounds.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            raise ValueError(
                f"--{name.replace('_', '-')} {value}: expected a number from {least:,g} to "
                f"{most:,g}"
            )


def require_text(arguments: Sequence[str]) -> None:
    """Refuse arguments that are empty or no text.

    An empty one would be read as the present folder. What the locale cannot read as text no record
    or file of results could hold.

    Raises:
        ValueError: Names the argument before the first empty one, or the first that is no text by
            its bytes.
    """
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "" in own:
        place = " ".join(own[: own.index("")])
        raise ValueError(
            f"the argument after `{place}` is empty: is a variable of the shell not set?"
        )
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise ValueError(
                f"the argument {os.fsencode(argument)!r} is not text in the encoding of this "
                f"locale, {sys.getfilesystemencoding()}: set LC_ALL=C.UTF-8 if it is in UTF-8, "
                "or rename the file"
            )


def require_existing(paths: Sequence[Path]) -> None:
    """Refuse paths where nothing is, before torch is imported for what could be there.

    Raises:
        ValueError: If one does not exist.
    """
    if missing := [str(path) for path in paths if not path.exists()]:
        raise ValueError(f"{', '.join(missing)} {'do' if missing[1:] else 'does'} not exist")


def add_source_choice(parser: argparse.ArgumentParser) -> None:
    """Add ``--source``; `chosen_sources` reads it."""
    parser.add_argument(
        "--source",
        action="append",
        metavar="NAME",
        help="source to work on; may be repeated (default: all sources of the config)",
    )


_CONFIG = Path("config.yaml")


def read_config(options: argparse.Namespace) -> Config:
    """The checked config that the options name.

    Raises:
        ValueError: If there is none, or it has a mistake.
    """
    from mtlpar.config import load_config

    files = list(options.config)
    if not files or _CONFIG.exists():
        files.insert(0, _CONFIG)
    return load_config(files, options.set)


def read_config_or_defaults(options: argparse.Namespace) -> Config:
    """The config, or where none was given and none is here, the defaults with all sources."""
    from mtlpar.config import load_config
    from mtlpar.sources.registry import BUILT_IN

    if config := _read_if_here(options):
        return config
    all_sources = {"branches": {source: [source] for source in BUILT_IN}}
    models = json.dumps({"all": all_sources})
    return load_config([], [f"models={models}", *options.set])


def _read_if_here(options: argparse.Namespace) -> Config | None:
    return read_config(options) if options.config or _CONFIG.exists() else None


def chosen_sources(options: argparse.Namespace, config: Config) -> tuple[str, ...]:
    """Sources to work on, in the order given.

    Raises:
        ValueError: If one is not in the config.
    """
    unknown = sorted(set(options.source or ()) - set(config.sources))
    if unknown:
        raise ValueError(
            f"--source {', '.join(unknown)}: not among the sources of the config "
            f"({', '.join(config.sources)})"
        )
    return tuple(options.source or config.sources)


def run_stage(config: Config, name: str, target: str, stage: Stage, **arguments: Any) -> None:
    """Run a stage on one target, as the only writer of its outputs, and record what it did.

    Args:
        config: The configuration.
        name: Name of the stage.
        target: Source, model, table or figure.
        stage: The stage's ``run``, called with the target and the arguments.
        arguments: What else it needs.
    """
    from mtlpar.flow.records import stage_run
    from mtlpar.parallel.launch import current_allocation

    with stage_run(config, name, target, allocation=current_allocation()) as due:
        if due:
            stage(target, **arguments)


@contextmanager
@collective
def stage_on_ranks(
    options: argparse.Namespace, config: Config, name: str, target: str, **arguments: Any
) -> Iterator[RankContext | None]:
    """Meet the other ranks to run a stage inside this block, as `run_stage` does with one process.

    Args:
        options: What was given.
        config: The configuration.
        name: Name of the stage.
        target: What it works on.
        arguments: See `mtlpar.parallel.ranks.distributed_context`.

    Yields:
        Who this process is; None if there is nothing to do.
    """
    from mtlpar.flow.records import Attempt, StageRun
    from mtlpar.parallel.agree import gather
    from mtlpar.parallel.launch import current_allocation

    with (
        Attempt(StageRun.of(config, name, target), current_allocation()) as attempt,
        joined_ranks(options, first=attempt.begin, **arguments) as context,
    ):
        # Only the first rank has begun; the others get what it found.
        yield context if gather(attempt.due)[0] else None


@contextmanager
def hold_share(config: Config, name: str, source: str, share: Share) -> Iterator[None]:
    """Be the only process that works on one share of a source, for as long as the block lasts.

    A share is no output of its own: the run of the stage that gathers the shares is recorded.

    Args:
        config: The configuration.
        name: Name of the stage.
        source: What it works on.
        share: Which part of the work.
    """
    from mtlpar.flow.lease import Owner, hold
    from mtlpar.flow.table import STAGES
    from mtlpar.parallel.launch import current_allocation

    allocation = current_allocation()
    owner = Owner.this_process(job=allocation.job, nodes=allocation.nodes)
    folder = STAGES[name].output_files(config, source)[0].parent
    with hold(folder, f"{name}-{source}-{share}", owner):
        yield


@contextmanager
@collective
def joined_ranks(options: argparse.Namespace, **arguments: Any) -> Iterator[RankContext]:
    """Meet the other ranks, if any; of what is no warning only the first one speaks then.

    Args:
        options: What was given.
        arguments: See `mtlpar.parallel.ranks.distributed_context`.
    """
    from mtlpar.parallel.allocator import keep_freed_memory
    from mtlpar.parallel.ranks import distributed_context

    keep_freed_memory()
    try:
        with distributed_context(**arguments) as context:
            set_up_logging(
                rank=context.rank, world_size=context.world_size, verbose=options.verbose
            )
            yield context
    finally:
        log_as_launched(options)


@collective
def on_first_rank(options: argparse.Namespace, work: Callable[[], Result]) -> Result | None:
    """Let the first rank, or the only process, do what one process does; the others wait for it.

    Args:
        options: What was given.
        work: What it does. A mistake of the user that it finds is raised on all ranks.

    Returns:
        What the work returns; None on all other ranks.
    """
    found: list[Result] = []
    with joined_ranks(options, first=lambda _: found.append(work())):
        return found[0] if found else None
