"""Requests to stop early: a signal from the scheduler, or a deadline."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

logger = logging.getLogger(__name__)

SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Whether this process was asked to stop; the training loop looks after every step."""

    def __init__(self, deadline_s: float | None = None) -> None:
        """Start the clock.

        Args:
            deadline_s: Seconds from now after which to stop; None for no limit.
        """
        self._deadline = None if deadline_s is None else time.monotonic() + deadline_s
        self._signal: int | None = None

    @property
    def reason(self) -> str | None:
        """Why to stop, or None."""
        if self._signal is not None:
            return f"signal {signal.Signals(self._signal).name}"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "the deadline before walltime"
        return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGUSR1 as requests for as long as the block lasts.

        Signals reach only a process's main thread; elsewhere nothing is changed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        # Only a note: the step in progress and its collectives must end in good order.
        self._signal = number
