"""Times of every step on one rank, by its own clock since all ranks began together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import torch

_SUM: Final = "sum "


class Stopwatch:
    """A `mtlpar.parallel.trace.Watcher` of the steps of an epoch.

    Attributes:
        steps: A row of `COLUMNS` for each step. Compute is all that a rank does from one sum to
            the next but for waiting for data and handing gradients to the transport: the update of
            the step before is in it, and whatever has no name.
    """

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Start together with all other ranks, behind a barrier.

        Args:
            device: Where this rank computes; its kernels belong to the stretch that started them.
            clock: Seconds since some moment.
        """
        self.steps: list[tuple[float, ...]] = []
        self._device = device
        self._clock = clock
        self._zero = self._left = clock()
        self._began: dict[str, float] = {}
        self._data = self._sending = self._compute = 0.0

    def begin(self, name: str) -> None:
        """Note when a stretch begins: waiting for sums ends what a rank does by itself."""
        self._began[name] = now = self._clock()
        if name == "reduce":
            self._compute = now - self._left - self._data - self._sending

    def end(self, name: str) -> None:
        """Note what a stretch took; sums that are there complete the row of a step."""
        if name == "compute" and self._device.type != "cpu":
            # Not all of the device: sums that wait for other ranks run beside the computation.
            torch.get_device_module(self._device).current_stream(self._device).synchronize()
        now = self._clock()
        took = now - self._began[name]
        if name == "data":
            self._data = took
        elif name.startswith(_SUM):
            self._sending += took
        elif name == "reduce":
            moments = (self._began[name] - self._zero, now - self._zero)
            self.steps.append((self._data, self._compute, self._sending, *moments))
            self._left, self._data, self._sending = now, 0.0, 0.0
