"""Jobs that a scheduler still holds for a checkout, found without the Snakemake that sent them."""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mtlpar.core.files import remove
from mtlpar.core.wording import counted
from mtlpar.parallel.allocation import Scheduler, run_client

logger = logging.getLogger(__name__)

_LOCKS: Final = Path(".snakemake", "locks")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_SLURM_USED: Final = "SLURM run ID"
_PBS_SUBMITTED: Final = re.compile(r"external jobid '([^']+)'")
# Snakemake's number of a job and the scheduler's; the number of a job that it saw end well.
_SENT_OR_FINISHED: Final = re.compile(
    r"^Job (\d+) has been submitted with SLURM jobid (\d+)"
    r"|^Submitted job (\d+) with external jobid '([^']+)'"
    r"|^Finished jobid: (\d+)",
    re.MULTILINE,
)
# Finished; finished subjob of an array.
_PBS_ENDED: Final = frozenset("FX")
_HOST: Final = re.compile(r"^\s*Host: (\S+)$", re.MULTILINE)
_INTERRUPTED: Final = "Terminating processes on user request"
_POLL_S: Final = 5.0
_REMIND_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """A job that waits or runs.

    Attributes:
        scheduler: Who holds it.
        id: Its identifier there.
        what: Rule and wildcards, as far as the scheduler tells.
        state: State in the scheduler's words; of a waiting job also what it waits for.
        elapsed: How long it has run.
        nodes: Number of nodes.
    """

    scheduler: Scheduler
    id: str
    what: str
    state: str
    elapsed: str
    nodes: str


def find_jobs(checkout: Path) -> list[Job]:
    """Jobs of Snakemake that wait or run for a checkout, whichever Snakemake sent them.

    Only the schedulers are asked that a Snakemake of this checkout has sent jobs to.

    Raises:
        ValueError: If one of them does not answer: no jobs and no answer are not alike.
    """
    text = "".join(_logs(checkout))
    jobs = _slurm_jobs(checkout) if _SLURM_USED in text else []
    return jobs + _pbs_jobs(list(dict.fromkeys(_PBS_SUBMITTED.findall(text))))


def unseen(checkout: Path) -> set[str]:
    """Jobs that Snakemake did not see end well, of the last Snakemake that sent any.

    Returns:
        Their identifiers; whether and how they have ended is not known.
    """
    logs = logs_since_jobs_were_sent(checkout)
    sent: dict[str, str] = {}
    for match in _SENT_OR_FINISHED.finditer(_text(logs[0]) if logs else ""):
        slurm_number, slurm_job, pbs_number, pbs_job, finished = match.groups()
        if finished:
            sent.pop(finished, None)
        else:
            sent[slurm_number or pbs_number] = slurm_job or pbs_job
    return set(sent.values())


def logs_since_jobs_were_sent(checkout: Path) -> list[Path]:
    """Log of the last Snakemake that sent jobs, and those after it; none if none did."""
    logs = _log_files(checkout)
    for index in reversed(range(len(logs))):
        found = _SENT_OR_FINISHED.finditer(_text(logs[index]))
        if any(not match[5] for match in found):
            return logs[index:]
    return []


def host_of(log: Path) -> str | None:
    """The machine on which a Snakemake ran; None if its log does not say."""
    found = _HOST.search(_text(log))
    return found[1] if found else None


def cancel(jobs: Iterable[Job]) -> None:
    """Cancel jobs; ones that have just ended are no error."""
    for job in jobs:
        run_client("scancel" if job.scheduler == "slurm" else "qdel", job.id)


def cancel_left(checkout: Path, logs: Iterable[Path]) -> list[Job]:
    """Cancel the jobs that an interrupted Snakemake should have cancelled, and did not.

    It takes jobs off its list while it asks the scheduler about them, and knows none to cancel when
    Ctrl-C comes just then.

    Args:
        checkout: Folder of the workflow.
        logs: Log files of that Snakemake, the last one here that sent jobs.

    Returns:
        The jobs; none if it was not interrupted.
    """
    if not any(_INTERRUPTED in _text(log) for log in logs):
        return []
    sent = unseen(checkout)
    left = [job for job in find_jobs(checkout) if job.id in sent] if sent else []
    cancel(left)
    return left


def wait(
    checkout: Path,
    *,
    sleep: Callable[[float], None] = time.sleep,
    tell: Callable[[str], None] = logger.info,
) -> None:
    """Wait until no job is left, and tell every minute which are."""
    started = reminded = time.monotonic()
    while jobs := find_jobs(checkout):
        if time.monotonic() - reminded >= _REMIND_S:
            reminded = time.monotonic()
            ids = ", ".join(job.id for job in jobs)
            tell(f"{(reminded - started) / 60:.0f} min: still there: {ids}")
        sleep(_POLL_S)


def snakemakes(checkout: Path) -> list[int]:
    """Processes of Snakemake on this machine that are at work in a checkout.

    Jobs are left out, and so is this process with those that started it.
    """
    found = []
    own = {os.getpid(), *_ancestors()}
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) in own:
            continue
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            here = (process / "cwd").resolve() == checkout.resolve()
        except OSError:
            continue
        # Jobs are Snakemakes too: they are started with a mode.
        is_snakemake = any(Path(word).name == "snakemake" for word in words[:3])
        if here and is_snakemake and "--mode" not in words:
            found.append(int(process.name))
    return sorted(found)


def _ancestors() -> Iterator[int]:
    """The process that started this one, the one that started that, and so on."""
    pid = os.getppid()
    while pid > 1:
        yield pid
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        pid = int(status.partition("\nPPid:")[2].split(maxsplit=1)[0])


def is_locked(checkout: Path) -> bool:
    """Whether a Snakemake holds the folder, or died and left its lock."""
    return any((checkout / _LOCKS).glob("*"))


def unlock(checkout: Path) -> bool:
    """Remove the lock that a Snakemake left which did not end by itself.

    Returns:
        Whether there was one.

    Raises:
        ValueError: If one is still at work here, or if a job is left that it sent.
    """
    if running := snakemakes(checkout):
        raise ValueError(
            f"Snakemake still runs here as process {', '.join(map(str, running))}; its lock stays. "
            "End it with Ctrl-C, which cancels its jobs"
        )
    if jobs := find_jobs(checkout):
        raise ValueError(
            f"left: {counted(len(jobs), 'job')} ({', '.join(job.id for job in jobs)}); the lock "
            "stays. Cancel what is left (--cancel) or wait for it (--adopt)"
        )
    locked = is_locked(checkout)
    remove(checkout / _LOCKS)
    return locked


def as_table(jobs: Sequence[Job]) -> str:
    """One line per job, with a head."""
    rows = [("job", "state", "elapsed", "nodes", "what")]
    rows += [(job.id, job.state, job.elapsed, job.nodes, job.what) for job in jobs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _logs(checkout: Path) -> list[str]:
    """What the Snakemakes of a checkout logged, the last one at the end."""
    return [_text(log) for log in _log_files(checkout)]


def _log_files(checkout: Path) -> list[Path]:
    return sorted((checkout / ".snakemake" / "log").glob("*.snakemake.log"))


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _slurm_jobs(checkout: Path) -> list[Job]:
    # The comment comes last, for it may hold anything.
    form = "--format=%i|%T|%r|%M|%D|%j|%Z|%k"
    answer = _answer_of("squeue", "--noheader", f"--user={getpass.getuser()}", form)
    jobs = []
    for line in answer.splitlines():
        job, state, reason, elapsed, nodes, name, folder, comment = line.split("|", 7)
        if _UUID.search(name) and Path(folder).resolve() == checkout.resolve():
            # Some wait for ever, for instance for more time than their partition gives.
            shown = f"{state} ({reason})" if state == "PENDING" else state
            jobs.append(Job("slurm", job, comment or name, shown, elapsed, nodes))
    return jobs


def _pbs_jobs(ids: Iterable[str]) -> list[Job]:
    jobs = []
    for job in ids:
        # -x: a job that has ended is known as such, and no error.
        answer = run_client("qstat", "-x", "-f", "-F", "json", job)
        if answer is None:
            # PBS forgets old jobs; a server that is down says so to the plain question too.
            _answer_of("qstat")
            continue
        try:
            ((_, fields),) = json.loads(answer)["Jobs"].items()
        except (KeyError, ValueError):
            raise ValueError(f"qstat gives no answer about job {job}: {answer[:200]!r}") from None
        if fields["job_state"] not in _PBS_ENDED:
            nodes = str(fields.get("Resource_List", {}).get("nodect", "?"))
            elapsed = fields.get("resources_used", {}).get("walltime", "-")
            what = fields.get("Job_Name", "")
            jobs.append(Job("pbs", job, what, fields["job_state"], elapsed, nodes))
    return jobs


def _answer_of(*command: str) -> str:
    answer = run_client(*command)
    if answer is None:
        raise ValueError(
            f"{command[0]} does not answer, so jobs may be left; try again when the scheduler is up"
        )
    return answer
