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

SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


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
            return "the deadline"
        return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM, SIGUSR1 and Ctrl-C as requests for as long as the block lasts.

        Who presses Ctrl-C twice does not want to wait.
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
        if number == signal.SIGINT:
            if self._signal == number:
                raise KeyboardInterrupt
            logger.warning("ending after this step with a checkpoint; Ctrl-C again ends at once")
        # Only a note: the step in progress and its collectives must end in good order.
        self._signal = number
