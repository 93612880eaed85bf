"""Leases: one writer at a time, whatever dies when."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlpar.flow import lease
from mtlpar.flow.lease import Lease, LeaseFolder, Owner, hold

ME = Owner.this_process()
STRANGER = Owner("elsewhere", 1, "another boot", "1")

# Takes the lease, says so, and holds it until it is killed or told to go on.
HOLDER = """
import sys
from pathlib import Path
from mtlpar.flow.lease import Owner, hold
with hold(Path(sys.argv[1]), "pack", Owner.this_process(job="42")):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _touch(folder: Path, *, patience_s: float = 0) -> None:
    with hold(folder, "pack", ME, patience_s=patience_s):
        pass


def test_two_processes_never_hold_it_together(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        with pytest.raises(ValueError, match=rf"written by process {other.pid} .*job 42"):
            _touch(tmp_path, patience_s=0.5)
        # A lease is for one output: its neighbours are free.
        with hold(tmp_path, "other", ME, patience_s=0):
            pass
        other.communicate("\n")
        with hold(tmp_path, "pack", ME, patience_s=0) as held:
            assert held.previous is None


def test_a_killed_owner_is_replaced_at_once_and_told_about(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        with hold(tmp_path, "pack", ME, patience_s=0) as held:
            assert held.previous is not None
            assert held.previous.owner is not None
            assert held.previous.owner.job == "42"
            assert not held.waited


@pytest.mark.parametrize("folder", [".", "results/models"])
def test_messages_name_what_is_written_and_where(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The present folder is called ".", which says nothing in a log.
    monkeypatch.chdir(tmp_path)
    with holder(Path(folder)) as other:
        place = tmp_path if folder == "." else folder
        with pytest.raises(
            ValueError, match=rf"pack in {re.escape(str(place))} is being written by"
        ):
            _touch(Path(folder))
        other.send_signal(signal.SIGKILL)
        other.wait()
        _touch(Path(folder))
    assert f"pack in {place}: took over from process {other.pid} on" in caplog.text


def test_a_waiting_process_goes_on_when_the_other_is_done(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        told = threading.Event()

        def end() -> None:
            told.set()
            other.communicate("\n")

        timer = threading.Timer(0.7, end)
        timer.start()
        with hold(tmp_path, "pack", ME, patience_s=30) as held:
            # Not whether it has ended: between letting go and that it may live for a moment.
            assert told.is_set()
            # It tells, because then the output may be there already.
            assert held.waited
        timer.join()


def test_an_owner_on_another_machine_is_alive_as_long_as_it_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_AFTER_S", 3.0)
    files = LeaseFolder(tmp_path, "pack")
    assert files.create(1, STRANGER)
    stop = threading.Event()

    def beat() -> None:
        beats = 0
        while not stop.wait(0.1):
            beats += 1
            files.write(Lease(1, STRANGER, beats, time.time()))

    heart = threading.Thread(target=beat)
    heart.start()
    with pytest.raises(ValueError, match="elsewhere"), hold(tmp_path, "pack", ME, patience_s=4):
        pass
    stop.set()
    heart.join()
    with hold(tmp_path, "pack", ME, patience_s=10) as held:
        assert held.previous is not None


def test_a_clock_that_is_minutes_off_kills_nobody(tmp_path: Path) -> None:
    files = LeaseFolder(tmp_path, "pack")
    assert files.create(1, STRANGER)
    for offset in (-600.0, 600.0):
        files.write(Lease(1, STRANGER, 1, time.time() + offset))
        with pytest.raises(ValueError, match="elsewhere"), hold(tmp_path, "pack", ME, patience_s=0):
            pass
    # An hour is no error of a clock.
    files.write(Lease(1, STRANGER, 1, time.time() - 3600))
    with hold(tmp_path, "pack", ME, patience_s=0):
        pass


def test_a_reused_process_number_is_not_the_owner(tmp_path: Path) -> None:
    # This very process has the number of the owner, but started at another time.
    former = Owner(ME.host, ME.pid, ME.scope, "1")
    assert former.has_gone()
    # In another container the number means another process: nothing is known.
    assert not Owner(ME.host, ME.pid, "another namespace", "1").has_gone()
    assert LeaseFolder(tmp_path, "pack").create(1, former)
    with hold(tmp_path, "pack", ME, patience_s=0):
        pass


def test_a_sleeper_that_wakes_up_finds_that_it_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    lost = threading.Event()

    def sleep_too_long() -> None:
        with hold(tmp_path, "pack", ME, on_loss=lost.set):
            assert LeaseFolder(tmp_path, "pack").create(2, STRANGER)
            assert lost.wait(10)

    with pytest.raises(ValueError, match="lost the lease to process 1 on elsewhere"):
        sleep_too_long()
    # And it took nothing away from the new owner.
    current = LeaseFolder(tmp_path, "pack").current()
    assert current is not None
    assert current.owner == STRANGER
    assert not current.released


def test_of_many_that_see_a_stale_lease_one_takes_it(tmp_path: Path) -> None:
    # Removing a stale lease and making a new one would let the second remover remove the new one.
    assert LeaseFolder(tmp_path, "pack").create(1, Owner(ME.host, ME.pid, ME.scope, "1"))
    inside, most = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with hold(tmp_path, "pack", ME):
            with guard:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with guard:
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert len(LeaseFolder(tmp_path, "pack").generations()) == 1


def test_a_late_comer_cannot_take_a_generation_that_is_over(tmp_path: Path) -> None:
    # It saw generation 1 as free, slept, and generation 2 came and went: 3 is the one that counts.
    files = LeaseFolder(tmp_path, "pack")
    assert files.create(3, STRANGER)
    assert not files.create(2, ME)
    assert files.generations() == [3]


@settings(max_examples=30)
@given(st.text('{}[]":,aé0\n', max_size=80))
def test_a_half_written_lease_counts_as_held(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.mktemp("half")
    LeaseFolder(folder, "pack").path(1).write_text(text)
    with (
        pytest.raises(ValueError, match="is being written"),
        hold(folder, "pack", ME, patience_s=0),
    ):
        pass


def test_what_was_killed_before_it_left_its_name_is_waited_for_for_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Its file is empty for good, and was waited for for two minutes, as somebody called None.
    monkeypatch.setattr(lease, "_NAMELESS_STALE_AFTER_S", 0.1)
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    files = LeaseFolder(tmp_path, "pack")
    files.path(1).touch()
    with hold(tmp_path, "pack", ME, patience_s=60):
        assert files.generations() == [2]
    assert "waiting for a process that has not left its name yet" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"3",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"owner": {"pid": []}, "beat_at": "x"}',
    ],
    ids=["empty", "list", "number", "nobody", "not text", "deep", "other types"],
)
def test_a_damaged_lease_is_one_without_a_name(content: bytes, tmp_path: Path) -> None:
    folder = LeaseFolder(tmp_path, "pack")
    folder.path(7).write_bytes(content)
    assert folder.current() == Lease(7, None)


def test_leases_are_counted_beyond_a_million(tmp_path: Path) -> None:
    # A generation that nobody sees would be created again and again, in vain.
    folder = LeaseFolder(tmp_path, "pack")
    assert folder.create(999_999, ME)
    assert folder.create(1_000_000, ME)
    assert folder.generations() == [1_000_000]


def test_the_file_says_who_and_where(tmp_path: Path) -> None:
    with hold(tmp_path, "pack", Owner.this_process(job="7", nodes=2, ranks=16)):
        (path,) = tmp_path.iterdir()
        owner = json.loads(path.read_text())["owner"]
    assert (owner["pid"], owner["job"], owner["nodes"], owner["ranks"]) == (os.getpid(), "7", 2, 16)


def test_on_a_full_disk_an_error_of_the_run_is_not_hidden_by_one_of_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        with hold(tmp_path, "out", Owner.this_process()):
            full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
            monkeypatch.setattr(lease, "write_json", full)
            raise ValueError("what really went wrong")

    with pytest.raises(ValueError, match="what really went wrong"):
        fail()


def test_a_lease_that_cannot_be_written_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An empty file would count as held by somebody who is just writing it, for two minutes.
    with monkeypatch.context() as patch:
        patch.setattr(json, "dump", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            LeaseFolder(tmp_path, "out").create(1, Owner.this_process())
    with hold(tmp_path, "out", Owner.this_process(), patience_s=0.0):
        pass
