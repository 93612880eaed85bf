"""Names for what a step does, as the profiler and whoever else watches see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from torch.profiler import record_function

PREFIX: Final = "mtlpar::"


class Watcher(Protocol):
    """Is called when a stretch of a step begins and ends, on the thread that does it."""

    def begin(self, name: str) -> None:
        """A stretch begins."""

    def end(self, name: str) -> None:
        """It ends."""


_watchers: list[Watcher] = []


@contextmanager
def span(name: str) -> Iterator[None]:
    """A stretch of a step under a name of its own; next to nothing while nobody looks."""
    with record_function(PREFIX + name):
        for watcher in _watchers:
            watcher.begin(name)
        yield
        for watcher in _watchers:
            watcher.end(name)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Tell somebody of all stretches inside the block."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)
