"""A process that hangs in a library is ended, and told why; one that does not is left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from torch.distributed import HashStore

from mtlpar.parallel.ranks import _meet_at

_CODE = """
import ctypes
from mtlpar.parallel.watchdog import ends_within
with ends_within({seconds}, "the advice"):
    # PyDLL keeps Python's lock as it waits, as mpi4py does in MPI_Init: no thread could end this.
    ctypes.PyDLL(None).sleep({work})
print("went on")
"""


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Let another process run some code."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_call_that_holds_the_lock_is_ended_with_advice() -> None:
    done = _run(_CODE.format(seconds=1, work=50))
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == "the advice\n"


def test_nobody_waits_for_the_watcher() -> None:
    # The watcher holds the standard error: the call would last until it has gone.
    done = _run(_CODE.format(seconds=1000, work=0))
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


def _said(code: str) -> tuple[int, str]:
    """Exit status and output of a process that runs some code."""
    done = _run(code)
    return done.returncode, done.stdout + done.stderr


def _wait_for_another(*, grace: float, work: float) -> tuple[int, str]:
    return _said(_WAITS_FOR_ANOTHER.format(grace=grace, work=work))


def test_who_waits_for_a_dead_rank_is_ended_and_names_it() -> None:
    code, said = _wait_for_another(grace=0.1, work=50)
    assert code == 1
    assert "rank 0 of 2: rank 1 died; run again" in said


def test_who_notices_by_itself_is_left_time_to_say_more() -> None:
    assert _wait_for_another(grace=1000, work=0.5) == (0, "went on\n")


_WAITS_AT_THE_END = """
import os, socket, subprocess, sys, time
from mtlpar.parallel import failures, ranks, watchdog
watchdog._LOOK_INTERVAL_S, watchdog._GRACE_S, failures._REPORT_GRACE_S = 0.05, 0.1, 0.1
other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
places = [(socket.gethostname(), pid) for pid in (os.getpid(), other.pid)]
detector = failures.FailureDetector(places)
meetings = []
def barrier():
    meetings.append("met")
    if len(meetings) == {dies_before}:
        other.kill()
        time.sleep({work})
with ranks._watched(detector, barrier):
    pass
print("left after", len(meetings))
"""


def _wait_at_the_end(*, dies_before: int, work: float) -> tuple[int, str]:
    return _said(_WAITS_AT_THE_END.format(dies_before=dies_before, work=work))


def test_who_waits_at_the_end_for_a_dead_rank_is_ended_and_names_it() -> None:
    # As when the first rank writes the model and is out of memory: the others have nothing to do.
    code, said = _wait_at_the_end(dies_before=1, work=50)
    assert code == 1
    assert "rank 0 of 2: rank 1 died; run again" in said


def test_nobody_watches_any_more_when_the_first_one_leaves() -> None:
    # Otherwise a slow rank takes those that have left for dead, and spoils a finished run.
    assert _wait_at_the_end(dies_before=2, work=0.5) == (0, "left after 2\n")


_LEAVES = """
import atexit, sys, time
from pathlib import Path
from mtlpar.parallel.watchdog import end_with_the_dead
# As libraries do when the interpreter ends.
atexit.register(time.sleep, {work})
end_with_the_dead(Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("status", "work", "expected"),
    [(137, 50, -signal.SIGKILL), (75, 1.5, 0), (1, 1.5, 0)],
    ids=["killed", "to be continued", "failed by itself"],
)
def test_on_the_way_out_a_rank_ends_with_those_that_a_signal_ended(
    status: int, work: float, expected: int, tmp_path: Path
) -> None:
    # All ranks of an interrupted run end with 75, some sooner: that is no reason to kill the rest.
    ended = tmp_path / "ended"
    ended.write_text(f"rank 0 ended with status 0\nrank 2 ended with status {status}\n")
    done = _run(_LEAVES.format(work=work), str(ended))
    assert done.returncode == expected
    told = "error: rank 2 ended with status 137 before all had ended; this rank waits in vain and"
    assert (told in done.stderr) == (expected != 0)


def test_ranks_meet_at_a_store_as_often_as_they_are_called() -> None:
    # Torchrun's ranks meet twice as they leave: a meeting that stays open lets the second one fail.
    store, order = HashStore(), []

    def late() -> None:
        for meeting in range(2):
            order.append(f"late {meeting}")
            _meet_at(store, 2)

    rank = threading.Thread(target=late)
    for meeting in range(2):
        if meeting == 0:
            rank.start()
        _meet_at(store, 2)
        order.append(f"met {meeting}")
    rank.join(10)
    assert not rank.is_alive()
    assert order.index("late 0") < order.index("met 0")
    assert order.index("late 1") < order.index("met 1")
