#!/usr/bin/env python3
"""Submit a job script of Snakemake to PBS Pro and print the job id, and nothing else.

Snakemake's cluster-generic executor calls it as ``submit.py OPTIONS... SCRIPT``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit one job; the exit status is that of qsub."""
    options = _parser().parse_args(arguments)
    options.logs.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(qsub_command(options), capture_output=True, text=True, check=False)
    sys.stderr.write(result.stderr)
    if result.returncode == 0:
        # Sites may print notices before the id.
        sys.stdout.write(result.stdout.strip().splitlines()[-1] + "\n")
    return result.returncode


def qsub_command(options: argparse.Namespace) -> list[str]:
    """The command line of qsub."""
    hours, minutes = divmod(options.minutes, 60)
    return [
        "qsub",
        *("-N", re.sub(r"[^A-Za-z0-9_.-]", "_", options.name)),
        *("-A", options.account),
        *("-q", options.queue),
        *("-l", f"select={options.nodes}"),
        *("-l", "place=scatter"),
        *("-l", f"walltime={hours:02d}:{minutes:02d}:00"),
        *("-l", f"filesystems={options.filesystems}"),
        # Both streams in one file, written in place while the job runs.
        *("-j", "oe", "-k", "doe", "-o", f"{options.logs.resolve()}/"),
        # Snakemake decides about retries.
        *("-r", "n"),
        str(options.script),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Submit a job script to PBS Pro.")
    parser.add_argument("--account", required=True, help="project that pays")
    parser.add_argument("--queue", required=True, help="queue")
    parser.add_argument("--filesystems", required=True, help="file systems that must be up")
    parser.add_argument("--nodes", type=int, required=True, help="number of whole nodes")
    parser.add_argument("--minutes", type=int, required=True, help="walltime")
    parser.add_argument("--name", required=True, help="name of the job")
    parser.add_argument("--logs", type=Path, required=True, help="folder of the logs")
    parser.add_argument("script", type=Path, help="job script")
    return parser


if __name__ == "__main__":
    sys.exit(main())
