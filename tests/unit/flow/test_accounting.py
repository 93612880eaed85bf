"""Snakemake is not started where it would wait for ever for jobs that ended long ago."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mtlpar.flow.accounting import check_status_command

ANSWERS, FAILS = "exit 0", "exit 1"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, for stand-ins of Slurm's clients."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def stand_in(programs: Path, **scripts: str) -> None:
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)


def remembers(seconds: int) -> str:
    """A scontrol that shows a configuration."""
    return f"echo 'Configuration data'; echo 'MinJobAge               = {seconds} sec'"


def settings(command: str, first_wait_s: int = 20) -> SimpleNamespace:
    return SimpleNamespace(status_command=command, init_seconds_before_status_checks=first_wait_s)


def test_sacct_is_only_asked_where_it_answers(programs: Path) -> None:
    stand_in(programs, sacct=ANSWERS)
    check_status_command(settings("sacct"))
    stand_in(programs, sacct=FAILS, scontrol=remembers(300))
    with pytest.raises(ValueError, match="slurm-status-command: squeue"):
        check_status_command(settings("sacct"))
    check_status_command(settings("squeue"))


def test_where_sacct_is_not_installed_the_plugin_asks_squeue(programs: Path) -> None:
    stand_in(programs, scontrol=remembers(300))
    check_status_command(settings("sacct"))


@pytest.mark.parametrize(
    ("memory_s", "first_wait_s", "is_enough"),
    [
        (300, 20, True),
        # Later questions are up to three minutes apart.
        (60, 20, False),
        (300, 60, True),
        # The plugin would ask sacct then, whatever it was told.
        (300, 120, False),
    ],
)
def test_squeue_must_remember_jobs_until_it_is_asked(
    programs: Path, memory_s: int, first_wait_s: int, *, is_enough: bool
) -> None:
    stand_in(programs, sacct=FAILS, scontrol=remembers(memory_s))
    if is_enough:
        check_status_command(settings("squeue", first_wait_s))
        return
    with pytest.raises(ValueError, match=f"MinJobAge is {memory_s} s"):
        check_status_command(settings("squeue", first_wait_s))
    # With accounting it does not matter.
    stand_in(programs, sacct=ANSWERS)
    check_status_command(settings("squeue", first_wait_s))


def test_other_executors_have_no_status_command(programs: Path) -> None:
    stand_in(programs, sacct=FAILS)
    check_status_command(None)
    check_status_command(SimpleNamespace(submit_cmd="qsub"))
