"""Where the time of an epoch goes, by rank."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import torch

from mtlpar.core.collective import collective
from mtlpar.parallel.agree import gather
from mtlpar.parallel.device import peak_memory_bytes

T = TypeVar("T")

logger = logging.getLogger(__name__)


class RankClock:
    """Adds up what one rank did in an epoch: data, compute, reduce, validate."""

    def __init__(self, device: torch.device) -> None:
        """Start the clock of an epoch.

        Args:
            device: Whose memory is looked at.
        """
        self._device = device
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._latest: dict[str, float] = {}

    def add(self, what: str, seconds: float) -> None:
        """Count time."""
        self._seconds[what] += seconds
        self._latest[what] = seconds

    def waiting_for(self, what: str, items: Iterable[T]) -> Iterator[T]:
        """Pass items on and count the time that each took to arrive."""
        iterator = iter(items)
        while True:
            started = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.add(what, time.perf_counter() - started)
            yield item

    def last(self) -> dict[str, float]:
        """Seconds of the latest step."""
        return {what: round(seconds, 6) for what, seconds in self._latest.items()}

    def elapsed(self) -> float:
        """Seconds since the start of the epoch."""
        return round(time.perf_counter() - self._started, 3)

    @collective
    def of_all_ranks(self) -> list[dict[str, float]]:
        """Sums of every rank and its peak memory."""
        mine = {what: round(seconds, 3) for what, seconds in self._seconds.items()}
        mine["peak_memory_bytes"] = peak_memory_bytes(self._device)
        return gather(mine)


@collective
def log_held(held: Mapping[str, int]) -> None:
    """Log what tensors of the model each rank holds.

    Args:
        held: Bytes by what they are, on this rank.
    """
    alike: dict[tuple[tuple[str, int], ...], list[int]] = defaultdict(list)
    for rank, sizes in enumerate(gather(dict(held))):
        alike[tuple(sizes.items())].append(rank)
    for sizes_of_rank, ranks in alike.items():
        text = ", ".join(f"{what} {size:,} bytes" for what, size in sizes_of_rank)
        logger.info("rank %s holds %s", ", ".join(map(str, ranks)), text)
