"""Deals the structures of a step to ranks so that all of them have about the same work."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

IndexArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def deal(work: npt.NDArray[np.integer], ranks: int) -> IndexArray:
    """Say who takes what, such that everybody has about the same sum of work.

    As when a box is packed, the largest come first and the smallest fill the gaps: the larger half
    of all items fills the ranks up to one level, then the larger half of what is left, and so on.
    Within a layer ranks take neighbours until they are full, so that it costs a sort and a few
    sums, not a step of Python for each item. The differences that remain are about one of the
    smallest items; who got an item beyond the final level takes nothing else.

    The arithmetic is IEEE 754's, in one order: all ranks that know ``work`` find the same.

    Args:
        work: Work of each item, in any unit, (N,).
        ranks: How many share it.

    Returns:
        Who takes each item, from 0 to ``ranks`` - 1, (N,). Somebody may get nothing.
    """
    owner: IndexArray = np.zeros(len(work), dtype=np.int64)
    if ranks == 1:
        return owner
    load = np.zeros(ranks)
    for layer in _layers(work, ranks):
        sizes = work.take(layer).astype(np.float64)
        ends = np.cumsum(sizes)
        full = np.cumsum(_gaps(load, float(ends[-1])))
        # An item goes to whom its middle falls to; rounding must leave none behind the last.
        first = np.searchsorted(ends - 0.5 * sizes, full[:-1])
        bounds = np.concatenate([[0], first, [len(layer)]])
        owner[layer] = np.repeat(np.arange(ranks), np.diff(bounds))
        load += np.diff(np.concatenate([[0.0], ends]).take(bounds))
    return owner


def _layers(work: npt.NDArray[np.integer], ranks: int) -> Iterator[IndexArray]:
    """Items from the largest to the smallest, about half of what is left at a time.

    Inside a layer they keep the order they came in, so that nobody gets the largest of each.
    """
    rising = np.sort(work)
    rest = np.arange(len(work))
    while len(rest):
        dealt = len(work) - len(rest)
        few = min(max(ranks, dealt), len(rest) // 2)
        # What is left are always the smallest, for items of equal work stay together.
        border = rising[len(rest) - few] if len(rest) > ranks else rising[0]
        is_large = work.take(rest) >= border
        yield rest.take(np.flatnonzero(is_large))
        rest = rest.take(np.flatnonzero(~is_large))


def _gaps(load: FloatArray, more: float) -> FloatArray:
    """What each of some loads lacks to the level that they reach together with ``more``, (R,)."""
    rising = np.sort(load)
    levels = (more + np.cumsum(rising)) / np.arange(1, len(load) + 1)
    # Who is above the level takes no part in it.
    level = float(levels[np.flatnonzero(levels >= rising)[-1]])
    return np.maximum(0.0, level - load)
