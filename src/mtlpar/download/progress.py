"""Progress bars: one per file, and one for all of them. Where no terminal is, nothing is drawn."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import NoReturn

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


class Bar:
    """Progress of one file that nobody watches."""

    def expect(self, total: int) -> None:
        """Say how long the file is, where that was not known."""

    def move_to(self, size: int) -> None:
        """Say how much of the file is here; less than before if it had to start again."""


class FileBar(Bar):
    """Progress of one file; drawn from its first byte on, so that queues are not."""

    def __init__(self, name: str, total: int | None, progress: ProgressBars) -> None:
        self._name = name
        self._total = total or 0
        self._progress = progress
        self._size = 0
        self._drawn: tqdm[NoReturn] | None = None

    def expect(self, total: int) -> None:
        """Correct the length."""
        self._progress.expect(total - self._total)
        self._total = total
        if self._drawn is not None:
            self._drawn.total = total

    def move_to(self, size: int) -> None:
        """Move both bars."""
        if self._drawn is None:
            self._drawn = _bar(self._name, self._total or None, leave=False)
        self._drawn.update(size - self._size)
        self._progress.update(size - self._size)
        self._size = size

    def close(self) -> None:
        """Take it off the screen."""
        if self._drawn is not None:
            self._drawn.close()


class ProgressBars:
    """The bar of all files, and the bars of those that are on their way."""

    def __init__(self, total: int = 0) -> None:
        """Expect ``total`` bytes, as far as lengths are known."""
        self._lock = Lock()
        self._exit = ExitStack()
        self._all = _bar("all files", total, leave=True)

    def __enter__(self) -> ProgressBars:
        self._exit.enter_context(self._all)
        if not self._all.disable:
            # Log lines go above the bars instead of through them.
            self._exit.enter_context(logging_redirect_tqdm([logging.getLogger("mtlpar")]))
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @contextmanager
    def file(self, name: str, total: int | None) -> Iterator[FileBar]:
        """Show the progress of one file."""
        bar = FileBar(name, total, self)
        try:
            yield bar
        finally:
            bar.close()

    def expect(self, more: int) -> None:
        """Say that there are more bytes than was known."""
        with self._lock:
            self._all.total = (self._all.total or 0) + more

    def update(self, more: int) -> None:
        """Say that there is more here than before."""
        with self._lock:
            self._all.update(more)


def _bar(name: str, total: int | None, *, leave: bool) -> tqdm[NoReturn]:
    return tqdm(desc=name, total=total, unit="B", unit_scale=True, disable=None, leave=leave)
