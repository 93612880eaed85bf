"""Commands for clusters: doctor, jobs, profiles."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtlpar.cli.common import add_command, add_config, joined_ranks, read_config_or_defaults
from mtlpar.core.collective import collective
from mtlpar.core.files import write_json
from mtlpar.core.wording import counted

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands

# Ranks that do not find each other are a finding, not something to wait for.
_DOCTOR_TIMEOUT_S = 180.0


def add_commands(commands: Commands) -> None:
    """Add doctor, jobs and profiles."""
    parser = add_command(
        commands,
        "doctor",
        _doctor,
        "look for known faults of this machine",
    )
    add_config(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the findings as JSON, if there is no fault"
    )
    parser = add_command(
        commands,
        "jobs",
        _jobs,
        "list jobs of this workflow that are pending or running in the scheduler",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--cancel", action="store_true", help="cancel these jobs, and unlock the folder"
    )
    choice.add_argument(
        "--adopt",
        action="store_true",
        help="wait for these jobs, let Snakemake keep their outputs, and unlock the folder",
    )
    parser = add_command(
        commands,
        "profiles",
        _profiles,
        "install profiles so that `snakemake --profile NAME` works",
    )
    parser.add_argument(
        "action", choices=("list", "install"), help="list the profiles, or install them"
    )
    parser.add_argument("name", nargs="*", help="profiles to install (default: all)")
    parser.add_argument("--account", metavar="NAME", help="project to charge")
    parser.add_argument(
        "--environment", type=Path, metavar="FOLDER", help="Python environment (default: .venv)"
    )


@collective
def _doctor(options: argparse.Namespace) -> None:
    from mtlpar.parallel import launch

    config = read_config_or_defaults(options)
    with joined_ranks(options, timeout_s=_DOCTOR_TIMEOUT_S) as context:
        from mtlpar.machine import doctor, finding

        findings = doctor.examine(
            context,
            launch.announced_geometry(),
            folder=config.workspace.results,
            allocation=launch.current_allocation(),
            environment=launch.environment(),
        )
    if context.rank != 0:
        return
    sys.stdout.write(f"{finding.as_table(findings)}\n")
    faults = [found.check for found in findings if found.level == "FAULT"]
    if faults:
        raise ValueError(
            f"{counted(len(faults), 'fault')}: {', '.join(faults)}; see the advice above"
        )
    if options.out:
        write_json(options.out, finding.as_plain(findings))


def _jobs(options: argparse.Namespace) -> None:
    from mtlpar.flow import adoption, jobs

    checkout = Path.cwd()
    found = jobs.find_jobs(checkout)
    text = jobs.as_table(found) if found else "no job of this workflow waits or runs"
    sys.stdout.write(f"{text}\n")
    if options.cancel:
        jobs.cancel(found)
    if options.cancel or options.adopt:
        jobs.wait(checkout)
        unlocked = jobs.unlock(checkout)
        for name in adoption.adopt(checkout):
            sys.stdout.write(f"kept: {name}\n")
        lock = "unlocked" if unlocked else "there was no lock"
        sys.stdout.write(f"{lock}; start snakemake as before\n")


def _profiles(options: argparse.Namespace) -> None:
    from mtlpar.flow import profiles

    checkout = Path.cwd()
    if options.action == "list":
        sys.stdout.write("\n".join(profiles.profile_names(checkout)) + "\n")
        return
    try:
        from snakemake.common import get_appdirs
    except ImportError:
        raise ValueError("Snakemake is not installed here; install mtlpar[workflow]") from None
    written = profiles.install(
        checkout,
        options.name,
        Path(get_appdirs().user_config_dir),
        profiles.Site(account=options.account, environment=options.environment),
    )
    sys.stdout.write("".join(f"{path}\n" for path in written))
