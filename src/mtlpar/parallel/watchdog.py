"""Ends this process if something takes too long that no exception can interrupt."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

# `timeout` ends with 124 if time ran out. Before, `cat` ends with its input, which is closed when
# the block is left, and when this process dies.
_WATCH = 'timeout "$1" cat; [ $? = 124 ] && { printf "%s\\n" "$3" >&2; kill -KILL "$2"; }'


@contextmanager
def ends_within(seconds: float, advice: str) -> Iterator[None]:
    """Kill this process, with a word of advice, if the block is not left in time.

    Another process watches: a library in C may wait with Python's lock held, and then no thread of
    this one would run.

    Args:
        seconds: How long the block may take.
        advice: What the watcher writes to standard error before.
    """
    watcher = subprocess.Popen(
        ["sh", "-c", _WATCH, "watchdog", f"{seconds:.0f}", str(os.getpid()), advice],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        # Closes its input.
        watcher.communicate()
