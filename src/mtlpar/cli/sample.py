"""The command that computes a sample of all sources."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mtlpar.cli.common import add_command

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands


def add_commands(commands: Commands) -> None:
    """Add sample."""
    parser = add_command(
        commands, "sample", _sample, "compute a sample of the sources in their native formats"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--structures", type=int, default=1200, metavar="N", help="structures per source, roughly"
    )
    parser.add_argument("--seed", type=int, default=20250626, help="seed of everything random")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    parser.add_argument("--source", action="append", metavar="NAME", help="only this source")


def _sample(options: argparse.Namespace) -> None:
    from mtlpar.sample import generate

    generate(
        options.out,
        structures_per_source=options.structures,
        seed=options.seed,
        processes=options.jobs,
        sources=options.source,
    )
