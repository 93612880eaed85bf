"""Index arithmetic against the loops that it replaces."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mtlpar.core.ragged import ragged_arange, split_by_load


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 4))))
def test_ragged_arange_joins_ranges(rows: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in rows], np.int64)
    counts = np.array([count for _, count in rows], np.int64)
    expected = [number for start, count in rows for number in range(start, start + count)]
    assert ragged_arange(starts, counts).tolist() == expected


@given(st.lists(st.integers(0, 30)), st.integers(1, 40))
def test_pieces_cover_all_items_once_and_hold_about_the_limit(load: list[int], limit: int) -> None:
    pieces = split_by_load(np.array(load, np.int64), limit)
    assert [item for piece in pieces for item in range(len(load))[piece]] == list(range(len(load)))
    for piece in pieces:
        # Only the last item may reach beyond the limit, however late the first one began.
        assert load[piece]
        assert sum(load[piece][:-1]) <= limit
