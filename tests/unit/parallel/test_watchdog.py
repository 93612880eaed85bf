"""A process that hangs in a library is ended, and told why; one that does not is left alone."""

from __future__ import annotations

import signal
import subprocess
import sys

_CODE = """
import ctypes
from mtlpar.parallel.watchdog import ends_within
with ends_within({seconds}, "the advice"):
    # PyDLL keeps Python's lock as it waits, as mpi4py does in MPI_Init: no thread could end this.
    ctypes.PyDLL(None).sleep({work})
print("went on")
"""


def _run(seconds: float, work: int) -> subprocess.CompletedProcess[str]:
    code = _CODE.format(seconds=seconds, work=work)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_call_that_holds_the_lock_is_ended_with_advice() -> None:
    done = _run(seconds=1, work=50)
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == "the advice\n"


def test_nobody_waits_for_the_watcher() -> None:
    # The watcher holds the standard error: the call would last until it has gone.
    done = _run(seconds=1000, work=0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


_WAITS_FOR_ANOTHER = """
import os, socket, subprocess, sys, time
from mtlpar.parallel import failures, watchdog
from mtlpar.parallel.failures import FailureDetector
watchdog._LOOK_INTERVAL_S, watchdog._GRACE_S, failures._REPORT_GRACE_S = 0.05, {grace}, 0.1
other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
detector = FailureDetector([(socket.gethostname(), pid) for pid in (os.getpid(), other.pid)])
with watchdog.ends_with_others(detector):
    other.kill()
    time.sleep({work})
print("went on")
"""


def _wait_for_another(*, grace: float, work: float) -> tuple[int, str]:
    code = _WAITS_FOR_ANOTHER.format(grace=grace, work=work)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_who_waits_for_a_dead_rank_is_ended_and_names_it() -> None:
    code, said = _wait_for_another(grace=0.1, work=50)
    assert code == 1
    assert "rank 0 of 2: rank 1 died; run again" in said


def test_who_notices_by_itself_is_left_time_to_say_more() -> None:
    assert _wait_for_another(grace=1000, work=0.5) == (0, "went on\n")
