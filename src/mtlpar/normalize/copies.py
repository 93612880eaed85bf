"""Finds geometries that are there several times, by fingerprints that rounding changes a little."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.hashing import UInt64Array, mix64
from mtlpar.graph.fingerprint import TOLERANCE
from mtlpar.normalize.split import repeated

UInt32Array = npt.NDArray[np.uint32]
IndexArray = npt.NDArray[np.int64]

# Structures that are compared together; those with equal first words are never apart.
_BUCKET: Final = 1 << 22
# Words fall into boxes of 2^8 steps, sixteen times the tolerance: few lie near a border.
_BOX_BITS: Final = np.uint32(8)
_MARGIN: Final = np.uint32(TOLERANCE // 2)


def name_geometries(fingerprint: UInt32Array, structure_id: UInt64Array) -> UInt64Array:
    """Give all copies of a geometry one name, however they are written.

    Structures are copies if the first words of their fingerprints are equal and the others differ
    by no more than the tolerance, and so are copies of copies. The name is the smallest hash among
    them, so that the order of the structures does not matter.

    Args:
        fingerprint: Fingerprint of each structure, zeros for none, (S, 5).
        structure_id: Hash of each structure, (S,).

    Returns:
        Name of each structure's geometry: its own hash where it has no copy, (S,).
    """
    names = structure_id.copy()
    buckets = max(1, -(-len(names) // _BUCKET))
    bucket = fingerprint[:, 0] % np.uint32(buckets)
    for index in range(buckets):
        rows = np.flatnonzero((bucket == index) & (fingerprint[:, 0] != 0))
        left, right = _links(fingerprint[rows])
        found, ends = np.unique(np.concatenate([left, right]), return_inverse=True)
        member = components(len(found), *np.split(ends, 2))
        smallest = np.full(len(found), np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(smallest, member, structure_id[rows[found]])
        names[rows[found]] = smallest[member]
    return names


def components(count: int, left: IndexArray, right: IndexArray) -> IndexArray:
    """Parts of a graph that hang together.

    Args:
        count: Number of nodes.
        left: One end of each link, (L,).
        right: The other end, (L,).

    Returns:
        The first node of each node's part, (count,).
    """
    first = np.arange(count)
    while True:
        nearest = np.minimum(first[left], first[right])
        lower = first.copy()
        for end in (left, right):
            # The part as a whole is moved, not the node alone.
            np.minimum.at(lower, first[end], nearest)
            np.minimum.at(lower, end, nearest)
        lower = lower[lower]
        if np.array_equal(lower, first):
            return first
        first = lower


def _links(words: UInt32Array) -> tuple[IndexArray, IndexArray]:
    """Pairs of structures that are copies; each set of copies hangs together by them.

    Args:
        words: Fingerprints, (S, 5).

    Returns:
        Both structures of each pair, (L,) each.
    """
    key, row = _boxes(words)
    shared = repeated(key)
    _, run = np.unique(key[shared], return_inverse=True)
    run, row = _without_gaps(run, row[shared], words)
    linked = np.flatnonzero(run[1:] == run[:-1])
    return row[linked], row[linked + 1]


def _boxes(words: UInt32Array) -> tuple[UInt64Array, IndexArray]:
    """Boxes that structures lie in, those just beyond a border among them.

    The point half way between two copies lies in a box of both.

    Returns:
        Hash of the box and row of the structure, (B,) each.
    """
    row = np.arange(len(words))
    key = mix64(words[:, 0].astype(np.uint64))
    for column in words.T[1:]:
        low, high = (column - _MARGIN) >> _BOX_BITS, (column + _MARGIN) >> _BOX_BITS
        split = np.flatnonzero((low != high)[row])
        beyond = mix64(key[split] + high[row[split]])
        key = np.concatenate([mix64(key + low[row]), beyond])
        row = np.concatenate([row, row[split]])
    return key, row


def _without_gaps(
    run: IndexArray, row: IndexArray, words: UInt32Array
) -> tuple[IndexArray, IndexArray]:
    """Cut runs wherever a word jumps by more than the tolerance, until none does.

    Args:
        run: Number of the run of each entry, ascending, (B,).
        row: Its structure, (B,).
        words: Fingerprints, (S, 5).

    Returns:
        The same, sorted by run.
    """
    parts = -1
    while len(run) and parts != (parts := int(run[-1])):
        for column in words.T[1:]:
            values = column[row]
            order = np.lexsort((values, run))
            run, row, values = run[order], row[order], values[order]
            jumps = (run[1:] != run[:-1]) | (values[1:] - values[:-1] > TOLERANCE)
            run = np.concatenate([[0], np.cumsum(jumps)])
    return run, row
