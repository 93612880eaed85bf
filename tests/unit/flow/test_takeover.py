"""Snakemake, started again, waits for jobs that a dead one left, and keeps what they made."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtlpar.flow import jobs, takeover

RUN = "mtlpar_6f1de0a2-9a53-4c1b-8b8e-0123456789ab"


class Start:
    """A start of Snakemake in a folder in which an earlier one died that had sent job 7."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.adopted = 0
        log = folder / ".snakemake/log/2026.snakemake.log"
        log.parent.mkdir(parents=True)
        log.write_text(
            f"  Host: {socket.gethostname()}\nSLURM run ID: {RUN}\n"
            "Job 1 has been submitted with SLURM jobid 7 (log: x).\n"
        )
        (folder / "clients").mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PATH", str(folder / "clients"), prepend=":")
        monkeypatch.setattr(takeover, "tell", self.said.append)
        monkeypatch.setattr(takeover, "adopt", self._adopt)
        monkeypatch.setattr(jobs, "_POLL_S", 0.0)
        self.monkeypatch = monkeypatch

    def squeue(self, script: str) -> None:
        """What the scheduler answers."""
        path = self.folder / "clients/squeue"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def squeue_shows_job(self, times: int) -> None:
        """The job runs, and has ended when it was asked for often enough."""
        line = f"7|RUNNING|None|1:02|4|{RUN}|{self.folder}|rule_train_mtl"
        asked = self.folder / "asked"
        self.squeue(f"echo >> {asked}; [ $(wc -l < {asked}) -gt {times} ] || echo '{line}'")

    def times_asked(self) -> int:
        return len((self.folder / "asked").read_text().splitlines())

    def __call__(self, *, is_main_process: bool = True, **options: bool) -> str:
        chosen = argparse.Namespace(**{"touch": False, "unlock": False, **options})
        self.monkeypatch.setattr(takeover, "options_of_user", lambda _: chosen)
        takeover.take_over(SimpleNamespace(is_main_process=is_main_process))
        return "\n".join(self.said)

    def _adopt(self, _: Path) -> list[str]:
        self.adopted += 1
        return ["train mtl"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return Start(tmp_path, monkeypatch)


def test_a_run_waits_for_jobs_before_it_keeps_what_they_made(start: Start) -> None:
    start.squeue_shows_job(times=3)
    said = start()
    assert start.times_asked() > 3
    assert start.adopted == 1
    # Which jobs, since some wait for ever, and how not to wait.
    assert "7    RUNNING  1:02" in said
    assert "mtlpar jobs --cancel" in said
    assert "Kept, though no Snakemake saw its job end: train mtl" in said


def test_a_plan_does_not_wait(start: Start) -> None:
    start.squeue_shows_job(times=3)
    assert "this plan does not know it" in start(dryrun=True)
    assert start.times_asked() == 1
    assert start.adopted == 0


def test_what_starts_no_run_of_its_own_takes_nothing_over(start: Start) -> None:
    start.squeue("exit 0")
    # Marking outputs is a start of Snakemake too: it would take over for ever.
    assert start(touch=True) == start(unlock=True) == start(is_main_process=False) == ""
    assert start.adopted == 0


def test_a_scheduler_that_does_not_answer_is_no_dead_end(start: Start) -> None:
    # A copy of the folder on a laptop, for instance, which has no Slurm.
    start.squeue("exit 1")
    assert "squeue does not answer" in start()
    assert start.adopted == 0


def test_what_cannot_be_marked_is_no_dead_end(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> list[str]:
        raise ValueError("Snakemake cannot mark it")

    start.squeue("exit 0")
    monkeypatch.setattr(takeover, "adopt", fail)
    assert "is not taken over: Snakemake cannot mark it" in start()


def test_after_a_run_that_saw_all_jobs_end_nobody_is_asked(start: Start) -> None:
    log = start.folder / ".snakemake/log/2026.snakemake.log"
    log.write_text(log.read_text() + "Finished jobid: 1 (Rule: train)\n")
    start.squeue_shows_job(times=0)
    assert start() == ""
    assert not (start.folder / "asked").exists()
