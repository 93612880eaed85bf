"""Ends this process if something takes too long, or is gone, that no exception reports."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mtlpar.parallel.failures import FailureDetector

_LOOK_INTERVAL_S: Final = 1.0
# Where connections break ranks notice by themselves in this time, and clean up.
_GRACE_S: Final = 1.0

_FAILED: Final = "status [1-9]"
_DIED: Final = "status 13[4-9]"
_NEVER_S: Final = 10**9

# `timeout` ends with 124 if time ran out. Before, `cat` ends with its input, which is closed when
# the block is left, and when this process dies.
_WATCH: Final = """\
waited=0
why=$3
while [ $waited -lt "$1" ]; do
    timeout 1 cat
    [ $? = 124 ] || exit 0
    waited=$((waited + 1))
    ended=$(grep -m 1 "$5" "$4" 2> /dev/null) && {
        why="error: $ended $6; this rank waits in vain and ends"
        break
    }
done
printf '%s\\n' "$why" >&2
kill -KILL "$2"
"""
_BEHIND: Final = f"exec 3<&0\n{{\n{_WATCH}}} <&3 &"


@contextmanager
def ends_within(
    seconds: float, advice: str, *, ended: Path | None = None, when: str = ""
) -> Iterator[None]:
    """Kill this process, with a word of advice, if the block is not left in time.

    Another process watches: a library in C may wait with Python's lock held, and then no thread of
    this one would run.

    Args:
        seconds: How long the block may take.
        advice: What the watcher writes to standard error before.
        ended: File with a line for each rank that ended; one that failed ends this process too,
            with that line in place of the advice.
        when: What had not happened yet when it failed, behind that line.
    """
    watcher = subprocess.Popen(
        ["sh", "-c", _WATCH, *_words(seconds, advice, ended, _FAILED, when)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        # Closes its input.
        watcher.communicate()


def end_with_the_dead(ended: Path) -> None:
    """From now on kill this process if another rank is ended by a signal.

    For the way out, when no thread runs any more: libraries let all ranks wait for each other once
    more, and launchers do not look as long as a rank that died is hidden from them. Ranks that end
    by themselves, with whatever status, came this way.

    Args:
        ended: File with a line for each rank that ended.
    """
    # The other end stays open for as long as this process lives; the shell ends at once.
    reading, _ = os.pipe()
    subprocess.run(
        ["sh", "-c", _BEHIND, *_words(_NEVER_S, "", ended, _DIED, "before all had ended")],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    os.close(reading)


def _words(
    seconds: float, advice: str, ended: Path | None, failed: str, when: str
) -> tuple[str, ...]:
    return "watchdog", f"{seconds:.0f}", str(os.getpid()), advice, str(ended), failed, when


@contextmanager
def ends_with_others(failures: FailureDetector) -> Iterator[None]:
    """Say that another rank has died, then end this process some seconds later.

    For what would wait for ever, or until somebody else gives up: MPI does not say that a partner
    is gone, and of a ring of connections only neighbours see that one is broken.

    Args:
        failures: All ranks; those that cannot be seen are not watched.
    """
    left = threading.Event()

    def watch() -> None:
        while not left.wait(_LOOK_INTERVAL_S):
            report = failures.report_dead(patience_s=0)
            if report and not left.wait(_GRACE_S):
                failures.announce(report)
                failures.let_others_report()
                if not left.is_set():
                    os._exit(1)

    threading.Thread(target=watch, name="mtlpar-watch", daemon=True).start()
    try:
        yield
    finally:
        left.set()
