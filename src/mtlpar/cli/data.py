"""Commands that prepare data, one source at a time: download, extract, normalize, pack."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from mtlpar.cli.common import (
    Command,
    add_command,
    add_config,
    add_source_choice,
    chosen_sources,
    hold_share,
    read_config,
    require_positive,
    run_stage,
)

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands, Stage
    from mtlpar.config import Config


def add_commands(commands: Commands) -> None:
    """Add the stages that work on a source."""
    parser = _add_stage(commands, "download", _download, "fetch the native files of a source")
    parser.add_argument(
        "--list",
        action="store_true",
        help="list the files, and how much of them is here, without downloading",
    )
    lock = parser.add_mutually_exclusive_group()
    lock.add_argument(
        "--relock",
        dest="lock_use",
        action="store_const",
        const="renew",
        default="check",
        help="accept what the servers offer now, and rewrite the lock files",
    )
    lock.add_argument(
        "--locked",
        dest="lock_use",
        action="store_const",
        const="keep",
        help="use the lock files as they are; do not ask the servers for changes",
    )
    parser = _add_stage(commands, "extract", _extract, "read native files into columns")
    _add_jobs(parser, "number of processes that read raw files (default: 1)")
    _add_share(parser, "extract")
    parser = _add_stage(commands, "normalize", _normalize, "split and fit reference energies")
    _add_jobs(parser, "number of processes that read (default: 1)")
    parser = add_command(commands, "leaks", _leaks, "compare the splits of all sources")
    add_config(parser)
    _add_jobs(parser, "number of processes that read (default: 1)")
    parser = _add_stage(commands, "pack", _pack, "write shuffled .bp packs of the splits")
    _add_jobs(parser, "number of processes that sort (default: 1)")
    _add_share(parser, "sort")


def _add_stage(
    commands: Commands, name: str, command: Command, summary: str
) -> argparse.ArgumentParser:
    parser = add_command(commands, name, command, summary)
    add_config(parser)
    add_source_choice(parser)
    return parser


def _add_jobs(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help=what)


def _add_share(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument(
        "--share",
        metavar="I-of-N",
        help=f"{verb} only share I of N; once all shares are done, run without this option",
    )


def _download(options: argparse.Namespace) -> None:
    from mtlpar.download import overview, stage
    from mtlpar.flow.records import stage_run
    from mtlpar.parallel.launch import current_allocation

    config = read_config(options)
    sources = chosen_sources(options, config)
    arguments = {
        "workspace": config.workspace,
        "settings": config.download,
        "catalogue": config.paths.catalogue,
        "lock_use": options.lock_use,
    }
    if options.list:
        sys.stdout.write(f"{overview.describe(sources, **arguments)}\n")
        return
    with ExitStack() as runs:
        due = [
            source
            for source in sources
            if runs.enter_context(
                stage_run(config, "download", source, allocation=current_allocation())
            )
        ]
        stage.run(*due, **arguments)


def _extract(options: argparse.Namespace) -> None:
    require_positive(options, "jobs")
    config = read_config(options)
    from mtlpar.extract import stage

    _run_or_share(options, config, "extract", stage.run, stage.run, settings=config.extract)


def _normalize(options: argparse.Namespace) -> None:
    require_positive(options, "jobs")
    config = read_config(options)
    from mtlpar.normalize import stage

    for source in chosen_sources(options, config):
        run_stage(
            config,
            "normalize",
            source,
            stage.run,
            workspace=config.workspace,
            settings=config.normalize.of(source),
            seed=config.seed,
            jobs=options.jobs,
        )


def _leaks(options: argparse.Namespace) -> None:
    require_positive(options, "jobs")
    config = read_config(options)
    from mtlpar.flow.table import ALL_SOURCES
    from mtlpar.normalize import leaks

    arguments = {"workspace": config.workspace, "jobs": options.jobs}
    run_stage(config, "find_leaks", ALL_SOURCES, lambda _: leaks.run(config.sources, **arguments))


def _pack(options: argparse.Namespace) -> None:
    require_positive(options, "jobs")
    config = read_config(options)
    from mtlpar.pack import stage

    settings = {"settings": config.pack, "seed": config.seed}
    _run_or_share(options, config, "pack", stage.run, stage.sort_share, **settings)


def _run_or_share(
    options: argparse.Namespace,
    config: Config,
    name: str,
    run: Stage,
    run_share: Stage,
    **arguments: Any,
) -> None:
    """Run a stage on one source after the other, or only the share of its work that is asked for.

    Args:
        options: What was given.
        config: The configuration.
        name: Name of the stage.
        run: What does all of its work, or gathers the shares.
        run_share: What does a share.
        arguments: Of both, besides those that every such stage has.
    """
    from mtlpar.core.share import Share
    from mtlpar.flow.table import STAGES

    share = None if options.share is None else Share.parse(options.share)
    arguments |= {"workspace": config.workspace, "jobs": options.jobs}
    for source in chosen_sources(options, config):
        arguments["code"] = STAGES[name].code(config, source)
        if share is None:
            run_stage(config, name, source, run, **arguments)
        else:
            with hold_share(config, name, source, share):
                run_share(source, share=share, **arguments)
