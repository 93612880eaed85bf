"""Commands that prepare data, one source at a time: download, extract, normalize, pack."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mtlpar.cli.common import (
    Command,
    add_command,
    add_config,
    add_source_choice,
    chosen_sources,
    read_config,
)

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands


def add_commands(commands: Commands) -> None:
    """Add the stages that work on a source."""
    parser = _add_stage(commands, "download", _download, "fetch the native files of a source")
    parser.add_argument("--list", action="store_true", help="show what would be fetched, and stop")
    parser = _add_stage(commands, "extract", _extract, "read native files into columns")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="raw files read side by side"
    )
    _add_stage(commands, "normalize", _normalize, "split and fit reference energies")
    _add_stage(commands, "pack", _pack, "write shuffled .bp packs of the splits")


def _add_stage(
    commands: Commands, name: str, command: Command, summary: str
) -> argparse.ArgumentParser:
    parser = add_command(commands, name, command, summary)
    add_config(parser)
    add_source_choice(parser)
    return parser


def _download(options: argparse.Namespace) -> None:
    from mtlpar.download import stage

    config = read_config(options)
    sources, catalogue = chosen_sources(options, config), config.paths.catalogue
    if options.list:
        table = stage.describe(
            sources, workspace=config.workspace, settings=config.download, catalogue=catalogue
        )
        sys.stdout.write(f"{table}\n")
        return
    for source in sources:
        stage.run(source, workspace=config.workspace, settings=config.download, catalogue=catalogue)


def _extract(options: argparse.Namespace) -> None:
    from mtlpar.extract import stage

    config = read_config(options)
    for source in chosen_sources(options, config):
        stage.run(source, workspace=config.workspace, settings=config.extract, jobs=options.jobs)


def _normalize(options: argparse.Namespace) -> None:
    from mtlpar.normalize import stage

    config = read_config(options)
    for source in chosen_sources(options, config):
        stage.run(source, workspace=config.workspace, settings=config.normalize, seed=config.seed)


def _pack(options: argparse.Namespace) -> None:
    from mtlpar.pack import stage

    config = read_config(options)
    for source in chosen_sources(options, config):
        stage.run(source, workspace=config.workspace, settings=config.pack, seed=config.seed)
