"""Workers give results in order, without piling them up, and never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mtlpar.core.processes import Workers

_HINT = "use fewer jobs"


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_the_order_of_the_tasks(jobs: int) -> None:
    # abs() of these would come in another order if the first to finish came first.
    tasks = list(range(-20, 0))
    with Workers(jobs, hint=_HINT) as workers:
        assert list(workers.map(abs, tasks)) == [abs(task) for task in tasks]


def test_no_more_tasks_are_started_than_someone_takes_results_of() -> None:
    tasks = iter(range(1, 101))
    with Workers(2, hint=_HINT) as workers:
        next(workers.map(abs, tasks))
        assert next(tasks) <= 2 * 2 + 2


def test_an_error_in_a_worker_is_the_error_of_the_caller() -> None:
    with Workers(2, hint=_HINT) as workers, pytest.raises(ValueError, match="invalid literal"):
        list(workers.map(int, ["1", "two", "3"]))


def test_a_killed_worker_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"killed.*fewer jobs"), Workers(2, hint=_HINT) as workers:
        list(workers.map(os._exit, [1]))


def test_less_than_one_job_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one job, got 0"):
        Workers(0, hint=_HINT)


# Two workers that say who they are and then sleep; the guard is for the spawned copies.
_PARENT = """
import sys
from mtlpar.core.processes import Workers
from sleeper import sleep
if __name__ == "__main__":
    with Workers(2, hint="") as workers:
        list(workers.map(sleep, [sys.argv[1]] * 2))
"""
_SLEEPER = """
import os, time
from pathlib import Path
def sleep(folder):
    Path(folder, f"{os.getpid()}.pid").touch()
    time.sleep(600)
"""


def test_workers_of_a_killed_parent_end(tmp_path: Path) -> None:
    # An orphan would go on writing into folders that the next run uses.
    (tmp_path / "parent.py").write_text(_PARENT)
    (tmp_path / "sleeper.py").write_text(_SLEEPER)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path)])
    _wait(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert all(map(_runs, workers))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _wait(lambda: not any(map(_runs, workers)))


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
