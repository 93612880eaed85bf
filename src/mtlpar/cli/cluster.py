"""Commands for clusters: doctor, jobs, profiles."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtlpar.cli.common import add_command

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands


def add_commands(commands: Commands) -> None:
    """Add jobs."""
    parser = add_command(
        commands, "jobs", _jobs, "show what a scheduler still holds for this workflow"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--cancel", action="store_true", help="cancel it, and unlock the folder")
    choice.add_argument(
        "--adopt", action="store_true", help="wait until it has ended, and unlock the folder"
    )


def _jobs(options: argparse.Namespace) -> None:
    from mtlpar.machine import jobs

    checkout = Path.cwd()
    found = jobs.find_jobs(checkout)
    text = jobs.as_table(found) if found else "no job of this workflow waits or runs"
    sys.stdout.write(f"{text}\n")
    if options.cancel:
        jobs.cancel(found)
    if options.cancel or options.adopt:
        jobs.wait(checkout)
        jobs.unlock(checkout)
        sys.stdout.write("unlocked; start snakemake as before\n")
