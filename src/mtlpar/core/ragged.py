"""Index arithmetic on rows of unequal length, without a loop over the rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IndexArray = npt.NDArray[np.int64]


def ragged_arange(starts: IndexArray, counts: IndexArray) -> IndexArray:
    """Concatenate ``arange(start, start + count)`` over all rows.

    Args:
        starts: First number of each row, (R,).
        counts: Length of each row, (R,); may be zero.

    Returns:
        (sum of counts,) numbers.
    """
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    numbers = np.repeat(starts - (ends - counts), counts)
    numbers += np.arange(total)
    return numbers


def split_by_load(load: npt.NDArray[np.integer], limit: int) -> list[slice]:
    """Cut consecutive items into pieces that sum to the limit on average.

    An item belongs where its load begins, so a piece exceeds the limit by less than one item.

    Args:
        load: Load of each item, (N,).
        limit: Load of a piece.
    """
    if len(load) == 0:
        return []
    piece = (np.cumsum(load, dtype=np.int64) - load) // limit
    starts = np.flatnonzero(np.diff(piece, prepend=-1))
    ends = [*starts[1:].tolist(), len(load)]
    return [slice(start, end) for start, end in zip(starts.tolist(), ends, strict=True)]
