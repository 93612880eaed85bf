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

# `timeout` ends with 124 if time ran out. Before, `cat` ends with its input, which is closed when
# the block is left, and when this process dies.
_WATCH: Final = """\
waited=0
why=$3
while [ $waited -lt "$1" ]; do
    timeout 1 cat
    [ $? = 124 ] || exit 0
    waited=$((waited + 1))
    if [ -s "$4" ]; then
        why="error: $(head -n 1 "$4") before MPI had started; this rank waits in vain and ends"
        break
    fi
done
printf '%s\\n' "$why" >&2
kill -KILL "$2"
"""


@contextmanager
def ends_within(seconds: float, advice: str, *, ended: Path | None = None) -> Iterator[None]:
    """Kill this process, with a word of advice, if the block is not left in time.

    Another process watches: a library in C may wait with Python's lock held, and then no thread of
    this one would run.

    Args:
        seconds: How long the block may take.
        advice: What the watcher writes to standard error before.
        ended: File with a line for each rank that failed; one more ends this process too, with
            that line in place of the advice.
    """
    watcher = subprocess.Popen(
        ["sh", "-c", _WATCH, "watchdog", f"{seconds:.0f}", str(os.getpid()), advice, str(ended)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        # Closes its input.
        watcher.communicate()


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
