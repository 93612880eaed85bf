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
