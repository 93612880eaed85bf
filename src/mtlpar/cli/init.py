"""The command that starts a folder of one's own: init."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtlpar.cli.common import add_command

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands

_NEXT = {
    True: "snakemake --profile profiles/local",
    False: "snakemake --profile profiles/local --configfile workflow/presets/archives.yaml -n",
}


def add_commands(commands: Commands) -> None:
    """Add init."""
    parser = add_command(commands, "init", _init, "write the workflow and its settings to a folder")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to write")
    parser.add_argument("--sample", action="store_true", help="include the embedded sample data")


def _init(options: argparse.Namespace) -> None:
    from mtlpar.flow.project import write_project

    write_project(options.folder, with_sample=options.sample)
    sys.stdout.write(f"wrote {options.folder}; next:\n")
    sys.stdout.write(f"  cd {options.folder}\n  {_NEXT[options.sample]}\n")
