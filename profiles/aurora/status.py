#!/usr/bin/env python3
"""Print ``running``, ``success`` or ``failed`` for one job of PBS Pro: ``status.py ID``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

# Finished; finished subjob of an array; completed, on older servers.
_ENDED = {"F", "X", "C"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the status of the job that is named on the command line."""
    (job,) = sys.argv[1:] if arguments is None else arguments
    sys.stdout.write(status(job) + "\n")
    return 0


def status(job: str, *, attempts: int = 5, sleep: Callable[[float], None] = time.sleep) -> str:
    """Ask PBS, again after 1, 2, 4, ... seconds when it does not answer.

    A server that stays silent says nothing about the job, which then counts as running: Snakemake
    would delete the outputs of a failed one. A job that PBS keeps calling unknown has failed.
    """
    unknown = False
    for attempt in range(attempts):
        if attempt:
            sleep(2.0 ** (attempt - 1))
        # -x: finished jobs too.
        answer = subprocess.run(
            ["qstat", "-x", "-f", "-F", "json", job], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0:
            try:
                return state_of(next(iter(json.loads(answer.stdout)["Jobs"].values())))
            except (ValueError, KeyError, StopIteration):
                pass  # half an answer of a busy server
        unknown = "unknown job" in answer.stderr.lower()
    return "failed" if unknown else "running"


def state_of(job: dict[str, Any]) -> str:
    """Translate what qstat reports; a job that ended without an exit status was killed."""
    if job.get("job_state") not in _ENDED:
        return "running"
    return "success" if job.get("Exit_status") == 0 else "failed"


if __name__ == "__main__":
    sys.exit(main())
