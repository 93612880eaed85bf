"""How long a job may still run, as Slurm and PBS say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtlpar.parallel.allocation import Allocation, parse_slurm_time, seconds_left
from mtlpar.parallel.launch import current_allocation


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("59", 59), ("1:30", 90), ("2:00:00", 7200), ("1-00:00:01", 86401), ("0:00", 0),
        ("UNLIMITED", None), ("INVALID", None), ("", None), ("-1:00", None),
    ],
)  # fmt: skip
def test_times_of_slurm(text: str, seconds: float | None) -> None:
    assert parse_slurm_time(text) == seconds


def _client(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_slurm_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _client(tmp_path, "squeue", '[ "$3" = 7 ] && echo 1:10:00', monkeypatch)
    # Not what was asked for: the job began a while ago.
    assert seconds_left(Allocation("slurm", "7"), walltime_min=120) == 4200


def test_pbs_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = (
        '{"Jobs": {"7.aurora": {"Resource_List": {"walltime": "02:00:00"}, '
        '"resources_used": {"walltime": "00:30:00"}}}}'
    )
    _client(tmp_path, "qstat", f"echo '{answer}'", monkeypatch)
    assert seconds_left(Allocation("pbs", "7.aurora")) == 5400


def test_a_silent_scheduler_leaves_the_walltime_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _client(tmp_path, "squeue", "exit 1", monkeypatch)
    assert seconds_left(Allocation("slurm", "7"), walltime_min=120) == 7200
    assert seconds_left(Allocation("slurm", "7")) is None


def test_nothing_ends_a_run_outside_a_job() -> None:
    # A laptop has no walltime, whatever the rule's resources say.
    assert seconds_left(current_allocation({}), walltime_min=120) is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Allocation()),
        (
            {"SLURM_JOB_ID": "5", "SLURM_CLUSTER_NAME": "frontier", "MTLPAR_GEOMETRY": "4 8 7 8"},
            Allocation("slurm", "5", "frontier", 4),
        ),
        ({"PBS_JOBID": "7.aurora", "PBS_O_HOST": "login"}, Allocation("pbs", "7.aurora", "login")),
    ],
)
def test_the_job_is_recognised(variables: dict[str, str], expected: Allocation) -> None:
    assert current_allocation(variables) == expected
