"""Neighbour lists of many structures at once, with periodic images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtlpar.core.hidden import torch_hidden
from mtlpar.core.ragged import split_by_load
from mtlpar.core.structures import StructureBatch
from mtlpar.graph.cells import Cells
from mtlpar.graph.dense import open_pairs, periodic_pairs
from mtlpar.graph.pairs import Pairs, measure
from mtlpar.graph.settings import GraphSettings

with torch_hidden():
    from vesin import NeighborList

IndexArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Candidates of one structure beyond which a search by linked cells is faster: molecules of about
# 600 atoms, crystals of about 130.
_LARGE_OPEN = 350_000
_LARGE_PERIODIC = 35_000
# Candidates that are looked at together: their arrays stay in the second-level cache, and calls of
# NumPy are few beside what they do. Of the candidates of crystals many are never looked at.
_CHUNK_OPEN = 16_000
_CHUNK_PERIODIC = 64_000


@dataclass(frozen=True, slots=True)
class Edges:
    """Directed edges of a batch, sorted by receiver, sender and periodic image.

    The vector from receiver to sender is ``positions[sender] + shift - positions[receiver]``.

    Attributes:
        receiver: Atom that receives the message, (E,).
        sender: Atom that sends it, (E,).
        shift: Translation of the sender's periodic image in Å, (E, 3) float64.
    """

    receiver: IndexArray
    sender: IndexArray
    shift: FloatArray


def neighbor_list(batch: StructureBatch, settings: GraphSettings) -> Edges:
    """Find all pairs of atoms closer than the cutoff, images included.

    An atom sees its own images where the cell is small. Each structure is searched with its own
    periodicity; nothing falls back to open boundaries. Small structures are searched together by
    looking at all pairs, large ones one by one with linked cells; the edges are the same.

    Args:
        batch: The structures.
        settings: Cutoff in Å and optional limit of neighbours per atom. Beyond the limit the
            nearest stay; among equal distances, those of the smallest sender and then image.

    Raises:
        ValueError: If a periodic structure has a cell that does not span its directions.
    """
    pieces = []
    for pairs in _search(batch, settings.cutoff_angstrom):
        if settings.max_neighbors is not None:
            pairs = pairs.select(
                nearest(pairs.receiver, pairs.squared_distance, settings.max_neighbors)
            )
        pieces.append(pairs)
    return _join(pieces)


def count_edges(batch: StructureBatch, settings: GraphSettings) -> IndexArray:
    """Count the edges of each structure, (S,), without making them.

    Args:
        batch: The structures.
        settings: As for `neighbor_list`, which finds as many.

    Raises:
        ValueError: If a periodic structure has a cell that does not span its directions.
    """
    of_atom = np.zeros(batch.total_atoms, dtype=np.int64)
    for pairs in _search(batch, settings.cutoff_angstrom):
        starts = np.flatnonzero(np.diff(pairs.receiver, prepend=-1))
        of_atom[pairs.receiver[starts]] = np.diff(starts, append=len(pairs.receiver))
    if settings.max_neighbors is not None:
        of_atom = np.minimum(of_atom, settings.max_neighbors)
    edges: IndexArray = np.diff(np.concatenate([[0], np.cumsum(of_atom)])[batch.offsets])
    return edges


def nearest(receiver: IndexArray, distance: FloatArray, count: int) -> BoolArray:
    """Mark the ``count`` shortest edges of each receiver; of equal ones the first.

    Args:
        receiver: (E,) receiver of each edge, sorted.
        distance: (E,) lengths of the edges, or anything that grows with them.
        count: Edges to keep per receiver.
    """
    kept = np.ones(len(receiver), bool)
    starts = np.flatnonzero(np.diff(receiver, prepend=-1))
    lengths = np.diff(starts, append=len(receiver))
    crowded = lengths > count
    if not crowded.any():
        return kept
    starts, lengths = starts[crowded, None], lengths[crowded, None]
    column = np.arange(lengths.max())
    exists = column < lengths
    edge = np.where(exists, starts + column, 0)
    table = np.where(exists, distance[edge], np.inf)
    farthest = np.partition(table, count - 1, axis=1)[:, count - 1, None]
    closer, tied = table < farthest, table == farthest
    room = count - closer.sum(axis=1, keepdims=True)
    chosen = closer | (tied & (np.cumsum(tied, axis=1) <= room))
    kept[edge[exists]] = chosen[exists]
    return kept


def _search(batch: StructureBatch, cutoff: float) -> Iterator[Pairs]:
    """Pairs of the batch in pieces; each structure lies within one piece."""
    cells = Cells.of(batch)
    positions = np.ascontiguousarray(batch.positions.T, dtype=np.float64)
    first_atom = batch.offsets[:-1]
    num_atoms = batch.num_atoms.astype(np.int64)
    # Pairs of atoms, and the lines of images of each that the dense search looks at.
    heights = cells.triangle[:, (0, 1), (0, 1)]
    candidates = num_atoms**2 * np.ceil((1 + cutoff / heights).prod(axis=1)).astype(np.int64)
    periodic = batch.pbc.any(axis=1)
    large = candidates > np.where(periodic, _LARGE_PERIODIC, _LARGE_OPEN)
    for chosen in _chunks(candidates, ~large & ~periodic, _CHUNK_OPEN):
        yield open_pairs(positions, first_atom[chosen], num_atoms[chosen], cutoff)
    for chosen in _chunks(candidates, ~large & periodic, _CHUNK_PERIODIC):
        yield periodic_pairs(
            positions, first_atom[chosen], num_atoms[chosen], cells.take(chosen), cutoff
        )
    for index in np.flatnonzero(large).tolist():
        yield _linked_cells(batch, index, positions, cells, cutoff)


def _chunks(candidates: IndexArray, wanted: BoolArray, load: int) -> Iterator[IndexArray]:
    indices = np.flatnonzero(wanted)
    for piece in split_by_load(candidates[indices], load):
        yield indices[piece]


def _linked_cells(
    batch: StructureBatch, index: int, positions: FloatArray, cells: Cells, cutoff: float
) -> Pairs:
    """Pairs of one large structure."""
    first, last = batch.offsets[index : index + 2]
    # A little beyond the cutoff, so that `measure` alone decides about pairs at the cutoff.
    search = NeighborList(cutoff=cutoff * (1 + 1e-6), full_list=True, n_threads=1)
    i, j, image = search.compute(
        np.ascontiguousarray(positions[:, first:last].T),
        cells.vectors[index],
        batch.pbc[index].astype(bool),
        "ijS",
    )
    order = np.lexsort((*image.T[::-1], j, i))
    return measure(
        positions,
        cells.vectors,
        receiver=i[order].astype(np.int64) + first,
        sender=j[order].astype(np.int64) + first,
        image=image[order].astype(np.int64).T,
        structure=np.full(len(order), index),
        cutoff=cutoff,
    )


def _join(pieces: list[Pairs]) -> Edges:
    """Put the pieces together; each is sorted, and no receiver is in two of them."""
    receiver = np.concatenate([piece.receiver for piece in pieces] or [np.zeros(0, np.int64)])
    sender = np.concatenate([piece.sender for piece in pieces] or [np.zeros(0, np.int64)])
    shift = np.zeros((len(receiver), 3))
    end = 0
    for piece in pieces:
        begin, end = end, end + len(piece.receiver)
        if piece.shift is not None:
            shift[begin:end] = piece.shift.T
    if (np.diff(receiver) >= 0).all():
        return Edges(receiver, sender, shift)
    order = np.argsort(receiver, kind="stable")
    return Edges(receiver[order], sender[order], shift[order])
