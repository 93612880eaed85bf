"""Snakemake itself, as far as the Snakefile asks it or speaks through it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def options_of_user(workflow: Any) -> argparse.Namespace | None:
    """What the user wrote on Snakemake's command line, entries of profiles left out.

    Args:
        workflow: Snakemake's.

    Returns:
        None in a process that runs a job, and where Snakemake was not started as a command.
    """
    if not workflow.is_main_process or "snakemake" not in Path(sys.argv[0]).parts[-2:]:
        return None
    from snakemake.cli import get_argument_parser

    options: argparse.Namespace = get_argument_parser().parse_known_args()[0]
    return options


def tell(line: str) -> None:
    """Say something where Snakemake says what it is going to do."""
    from snakemake.logging import logger

    logger.info(line)
