"""Rows of a table of edges: every edge finds a place, and few places stay empty."""

from __future__ import annotations

from itertools import chain, combinations, pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlpar.model.egnn.edge_table import IndexArray, Rows

COUNTS = st.lists(st.integers(0, 12), min_size=1, max_size=9).map(sorted).map(np.array)


@given(COUNTS, st.integers(1, 30), st.integers(0, 20))
def test_rows_are_as_long_as_what_they_hold_and_blocks_as_large_as_allowed(
    counts: IndexArray, block_edges: int, cost: int
) -> None:
    rows = Rows.cut(counts, block_edges, cost=cost)
    assert rows.atoms.sum() == len(counts)
    assert (rows.lengths.numpy() >= counts).all()
    assert (rows.lengths.numpy() >= 1).all()
    # A single row may be longer than a block.
    assert ((rows.edges <= block_edges) | (rows.atoms == 1)).all()


def _cheapest(counts: IndexArray, cost: int) -> int:
    """Places and blocks of the best way to cut, found by trying all of them."""
    lengths = np.maximum(1, counts)
    inside = range(1, len(counts))
    ways = chain.from_iterable(combinations(inside, size) for size in range(len(counts)))
    prices = []
    for way in ways:
        bounds = [0, *way, len(counts)]
        places = sum((last - first) * int(lengths[last - 1]) for first, last in pairwise(bounds))
        prices.append(places + cost * (len(bounds) - 1))
    return min(prices)


@settings(max_examples=40)
@given(COUNTS, st.integers(1, 20))
def test_no_other_way_to_cut_has_fewer_places_and_blocks(counts: IndexArray, cost: int) -> None:
    rows = Rows.cut(counts, block_edges=10**6, cost=cost)
    assert int(rows.edges.sum()) + cost * len(rows.atoms) == _cheapest(counts, cost)
