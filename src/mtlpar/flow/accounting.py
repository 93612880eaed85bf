"""Whether Snakemake will hear that the jobs of a Slurm have ended.

Its Slurm plugin waits for ever for a job whose end nobody reports. A job cannot tell either: what
it finds out is in a log that nobody waits for.
"""

from __future__ import annotations

import re
import shutil
from typing import Final

from mtlpar.parallel.allocation import run_client

# The plugin's questions are up to this far apart.
_LONGEST_PAUSE_S: Final = 180
# With less memory than this many first waits the plugin asks sacct, whatever its settings say.
_FIRST_WAITS: Final = 3


def check_status_command(executor_settings: object) -> None:
    """Refuse to start jobs of Slurm that would never be seen to end.

    Args:
        executor_settings: Those of Snakemake's executor; only Slurm's have a ``status_command``.

    Raises:
        ValueError: If ``sacct`` is to be asked and does not answer, or if ``squeue`` alone answers
            and forgets jobs too soon.
    """
    command = getattr(executor_settings, "status_command", None)
    if command is None or _accounting_answers():
        return
    if command == "sacct" and shutil.which("sacct"):
        raise ValueError(
            "sacct does not answer, so Snakemake would never see a Slurm job end. On a Slurm "
            "without accounting set slurm-status-command: squeue in the profile"
        )
    first_wait_s = getattr(executor_settings, "init_seconds_before_status_checks", 0)
    needed_s = max(_LONGEST_PAUSE_S, _FIRST_WAITS * first_wait_s)
    memory_s = _seconds_that_squeue_remembers()
    if memory_s is None or memory_s < needed_s:
        known = "not known" if memory_s is None else f"{memory_s} s"
        raise ValueError(
            "without accounting Snakemake learns from squeue how jobs ended, and this Slurm may "
            f"forget them before it asks: MinJobAge is {known}, expected at least {needed_s} s. "
            "Raise it in slurm.conf (300 s is Slurm's default)"
            + (
                ", or lower slurm-init-seconds-before-status-checks in the profile"
                if needed_s > _LONGEST_PAUSE_S
                else ""
            )
        )


def _accounting_answers() -> bool:
    """Whether ``sacct`` answers; asked for jobs since now, which are few."""
    return run_client("sacct", "--noheader", "--starttime=now") is not None


def _seconds_that_squeue_remembers() -> int | None:
    """How long Slurm knows a job that has ended; None if it does not say."""
    answer = run_client("scontrol", "show", "config") or ""
    found = re.search(r"^MinJobAge\s*=\s*(\d+)", answer, re.MULTILINE)
    return int(found[1]) if found else None
