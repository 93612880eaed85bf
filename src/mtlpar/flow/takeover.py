"""Takes over what a Snakemake left that did not live to see its jobs end.

Jobs outlive it. Started again, Snakemake knows nothing of them: it would make everything once more
that they have made, or send second jobs beside those that still run.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

from mtlpar.flow import jobs
from mtlpar.flow.adoption import adopt, was_adopted
from mtlpar.flow.snakemake import options_of_user, tell

# Options with which Snakemake says or tidies up something, and starts no job.
_NO_RUN: Final = (
    "dryrun", "lint", "list_rules", "list_target_rules", "dag", "rulegraph", "filegraph", "d3dag",
    "summary", "detailed_summary", "list_changes", "report", "archive", "delete_all_output",
    "cleanup_metadata", "conda_create_envs_only", "containerize",
)  # fmt: skip


def take_over(workflow: Any) -> None:
    """Wait for the jobs that an earlier Snakemake left here, and keep what they made.

    A plan waits for nothing, and says that. Nothing is done while that Snakemake may still be at
    work, nor twice.

    Args:
        workflow: Snakemake's; before it has planned anything.
    """
    checkout = Path.cwd()
    if not workflow.is_main_process or not jobs.unseen(checkout):
        return
    logs = jobs.logs_since_jobs_were_sent(checkout)
    options = options_of_user(workflow)
    if options is None or options.touch or options.unlock or was_adopted(checkout):
        return
    if _may_be_at_work(checkout, logs):
        return
    try:
        if left := jobs.find_jobs(checkout):
            tell(f"Jobs of an earlier Snakemake:\n{jobs.as_table(left)}")
            if any(getattr(options, name, None) for name in _NO_RUN):
                tell("A run waits for them, and keeps what they make; this plan does not know it.")
                return
            tell("Waiting for them, to keep what they make; `mtlpar jobs --cancel` ends them.")
            jobs.wait(checkout, tell=tell)
        jobs.unlock(checkout)
        for name in adopt(checkout):
            tell(f"Kept, though no Snakemake saw its job end: {name}")
    except ValueError as error:
        # It may all be made again, which is no reason to make nothing.
        tell(f"What the jobs of an earlier Snakemake made is not taken over: {error}")


def _may_be_at_work(checkout: Path, logs: list[Path]) -> bool:
    """Whether a Snakemake that wrote one of the logs may still live; then Snakemake says so."""
    if jobs.snakemakes(checkout):
        return True
    if not jobs.is_locked(checkout):
        return False
    elsewhere = {host for log in logs if (host := jobs.host_of(log))} - {socket.gethostname()}
    if elsewhere:
        tell(
            f"The lock of this folder may be that of a Snakemake on {', '.join(sorted(elsewhere))}."
            " If it is dead, `mtlpar jobs --adopt` waits for its jobs, keeps what they made and "
            "unlocks."
        )
    return bool(elsewhere)
