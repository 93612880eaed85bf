"""The job of the scheduler that this process runs in, and how long it may still run."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass
from typing import Any, Literal

Scheduler = Literal["slurm", "pbs", "none"]


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a process knows about its job.

    Attributes:
        scheduler: Who gave the nodes.
        job: Identifier of the job; empty outside one.
        cluster: Name of the cluster, where the scheduler tells.
        nodes: Nodes that work together here.
    """

    scheduler: Scheduler = "none"
    job: str = ""
    cluster: str = ""
    nodes: int = 1


def seconds_left(allocation: Allocation, *, walltime_min: float | None = None) -> float | None:
    """How long the job may still run, as its scheduler says.

    Args:
        allocation: The job.
        walltime_min: Minutes that were asked for; used, as if the job began now, where the
            scheduler does not answer.

    Returns:
        Seconds, or None outside a job, where nothing ends a run.
    """
    if allocation.scheduler == "none":
        return None
    ask = _ask_slurm if allocation.scheduler == "slurm" else _ask_pbs
    left = ask(allocation.job)
    if left is None and walltime_min is not None:
        return 60.0 * walltime_min
    return left


def _ask_slurm(job: str) -> float | None:
    answer = run_client("squeue", "--noheader", "--jobs", job, "--format=%L")
    return parse_slurm_time(answer.strip()) if answer else None


def _ask_pbs(job: str) -> float | None:
    answer = run_client("qstat", "-f", "-F", "json", job)
    try:
        ((_, fields),) = json.loads(answer or "{}")["Jobs"].items()
        return _pbs_seconds_left(fields)
    except (KeyError, ValueError):
        return None


def _pbs_seconds_left(fields: dict[str, Any]) -> float | None:
    total = parse_slurm_time(fields["Resource_List"]["walltime"])
    used = fields.get("resources_used", {}).get("walltime")
    if used is not None:
        spent = parse_slurm_time(used)
    else:
        spent = time.time() - time.mktime(time.strptime(fields["stime"], "%a %b %d %H:%M:%S %Y"))
    return None if total is None or spent is None else max(0.0, total - spent)


def parse_slurm_time(text: str) -> float | None:
    """Seconds in ``[days-][[hours:]minutes:]seconds``; None for anything else (``UNLIMITED``)."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text)
    if not match:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def run_client(program: str, *arguments: str, timeout_s: float = 30.0) -> str | None:
    """Output of a scheduler's client; None if it is missing, fails or does not answer in time."""
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
