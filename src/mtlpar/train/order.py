"""The order in which an epoch visits one dataset, known without holding all of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from mtlpar.core.hashing import derive_seed
from mtlpar.core.ragged import ragged_arange

IndexArray = npt.NDArray[np.int64]

# Neighbouring stretches are asked for, perhaps by two readers at different windows.
_WINDOWS_IN_MEMORY = 4


class EpochOrder:
    """Structures that an epoch visits, in order; stretches of it are computed when asked for.

    A pass takes the blocks of a pack in random order, some at a time. The structures of the blocks
    that are taken together, a *window*, come in random order. Packs are shuffled when they are
    written, so windows only have to keep structures from meeting the same others in every epoch.
    A dataset that is one window comes in an order that is random throughout.

    Every structure comes once before any comes twice; the last, incomplete pass takes different
    structures in each epoch.

    Attributes:
        windows: Blocks of each window, ascending.
        starts: Position in the epoch where each window begins, and where the last pass would end.
    """

    def __init__(self, borders: IndexArray, samples: int, *, window: int, seed: int) -> None:
        """Deal blocks into windows.

        Args:
            borders: First structure of each block of the dataset, and the end, (B + 1,).
            samples: Structures that the epoch visits.
            window: Structures that are shuffled together, in whole blocks; at least one block.
            seed: Seed of this epoch and dataset.
        """
        self._samples = samples
        sizes, count = np.diff(borders), int(borders[-1])
        at_a_time = max(1, window // int(sizes.max()))
        windows_per_pass = 1 if count <= window else math.ceil(len(sizes) / at_a_time)
        rng = np.random.default_rng(derive_seed(seed, "blocks"))
        self.windows: list[IndexArray] = [
            np.sort(blocks)
            for _ in range(math.ceil(samples / count))
            for blocks in np.array_split(rng.permutation(len(sizes)), windows_per_pass)
        ]
        ends = np.cumsum([sizes[blocks].sum() for blocks in self.windows])
        self.starts: IndexArray = np.concatenate([[0], ends])
        del self.windows[int(np.searchsorted(self.starts, samples)) :]
        compute = partial(_visits, borders, self.windows, seed)
        self._visits: Callable[[int], IndexArray] = lru_cache(_WINDOWS_IN_MEMORY)(compute)

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, stretch: slice) -> IndexArray:
        start, stop, _ = stretch.indices(self._samples)
        parts = [
            self.visits(window)[max(0, start - self.starts[window]) : stop - self.starts[window]]
            for window in self.windows_of(start, stop)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.zeros(0, np.int64)])

    def visits(self, window: int) -> IndexArray:
        """Structures of a window in the order of their visits; the last pass may end before."""
        return self._visits(window)

    def windows_of(self, start: int, stop: int) -> range:
        """Numbers of the windows in which some positions of the epoch lie."""
        if start >= stop:
            return range(0)
        first, last = np.searchsorted(self.starts, [start, stop - 1], side="right") - 1
        return range(int(first), int(last) + 1)


def _visits(
    borders: IndexArray, windows: Sequence[IndexArray], seed: int, window: int
) -> IndexArray:
    """All structures of a window in the order of their visits."""
    first, last = borders[windows[window]], borders[windows[window] + 1]
    members = ragged_arange(first, last - first)
    # The first window's seed is the epoch's own: what is one window needs no other.
    return members[np.random.default_rng(seed + window).permutation(len(members))]
