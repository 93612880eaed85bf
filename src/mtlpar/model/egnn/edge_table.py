"""Edges as a table by receiver, and what comes back to them.

The edges that an atom receives fill a row, so that sums over neighbours are products of small
matrices. Rows of a block of atoms are as long as its longest, so atoms lie in the order of how many
neighbours they have. A place that no neighbour takes holds an edge as long as the cutoff, whose
message is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from mtlpar.model.geometry import RadialBasis

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Rows:
    """Blocks of consecutive rows of a table.

    Attributes:
        atoms: (B,) rows of each block.
        columns: (B,) places of each of its rows.
    """

    atoms: IndexArray
    columns: IndexArray

    @classmethod
    def of(cls, counts: IndexArray, block_edges: int, before: Rows | None) -> Rows:
        """Rows for atoms that receive so many edges each.

        Args:
            counts: Edges of A atoms, (A,).
            block_edges: Places of a block, unless a single row has more.
            before: Rows that these should equal, if the edges fit into them.
        """
        if before is not None and before.atoms.sum() != len(counts):
            before = None
        longest = max(1, int(counts.max()), 0 if before is None else int(before.columns.max()))
        starts = np.arange(0, len(counts), max(1, block_edges // longest))
        atoms = np.diff(starts, append=len(counts))
        columns = np.maximum(1, np.maximum.reduceat(counts, starts))
        if before is not None and np.array_equal(before.atoms, atoms):
            columns = np.maximum(columns, before.columns)
        return cls(atoms, columns)

    @classmethod
    def cut(cls, counts: IndexArray, block_edges: int, *, cost: int) -> Rows:
        """Rows for atoms that receive ever more edges, with few empty places.

        Args:
            counts: Edges of A atoms, (A,), ascending.
            block_edges: Places of a block, unless a single row has more.
            cost: Empty places that another block must save.
        """
        lengths, atoms = np.unique(np.maximum(1, counts), return_counts=True)
        below = np.concatenate([[0], atoms.cumsum()])
        # The least number of places, and what blocks cost, for atoms with the shortest rows.
        best, start = np.zeros(len(below)), np.zeros(len(below), dtype=np.int64)
        for end, length in enumerate(lengths, start=1):
            costs = best[:end] + (below[end] - below[:end]) * length
            start[end] = costs.argmin()
            best[end] = costs[start[end]] + cost
        parts: list[tuple[int, int]] = []
        end = len(lengths)
        while end > 0:
            length, count = int(lengths[end - 1]), int(below[end] - below[start[end]])
            blocks = -(-count // max(1, block_edges // length))
            sizes = np.diff(np.linspace(0, count, blocks + 1).astype(np.int64))
            parts += [(int(size), length) for size in sizes]
            end = int(start[end])
        atoms_of, columns = zip(*reversed(parts), strict=True)
        return cls(np.array(atoms_of), np.array(columns))

    def equal(self, other: Rows) -> bool:
        """Whether blocks and rows are as many and as long."""
        return np.array_equal(self.atoms, other.atoms) and np.array_equal(
            self.columns, other.columns
        )

    @property
    def edges(self) -> IndexArray:
        """(B,) places of each block."""
        return self.atoms * self.columns

    @property
    def lengths(self) -> Tensor:
        """(A,) places of each row."""
        return torch.from_numpy(np.repeat(self.columns, self.atoms))

    @property
    def first(self) -> Tensor:
        """(A,) the first place of each row."""
        lengths = self.lengths
        return lengths.cumsum(0) - lengths


def place_edges(first: Tensor, row: Tensor, receiver: Tensor, counts: Tensor) -> Tensor:
    """Places of edges, (E,), side by side in the rows of their receivers.

    Args:
        first: (A,) the first place of each row.
        row: (A,) row of each atom.
        receiver: (E,) atoms that receive, sorted.
        counts: (A,) edges that each of them receives.
    """
    before = first.index_select(0, row) - counts.cumsum(0) + counts
    edges = torch.arange(len(receiver), device=receiver.device)
    return edges + before.index_select(0, receiver)


class EdgeTable:
    """Edges of structures with A atoms in a table of n places, in memory that stays.

    Attributes:
        rows: The table's blocks.
        place: (E,) places of the edges in the table.
        sender: (n,) rows of the atoms that send; anything where there is no edge.
        unit: (3, n) unit vectors from receiver to sender.
        ends: (n, 4) unit vectors and ones.
        radial: (n, K) radial functions.
    """

    def __init__(self, rows: Rows, basis: RadialBasis, like: Tensor) -> None:
        """Allocate.

        Args:
            rows: The table's blocks.
            basis: K radial functions.
            like: Any tensor of the type wanted.
        """
        self.rows, self._basis = rows, basis
        edges = int(rows.edges.sum())
        self._first, lengths = rows.first, rows.lengths
        self._row = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
        self.sender = like.new_zeros(edges, dtype=torch.int64)
        self._vector, self.unit = (like.new_empty(3, edges) for _ in range(2))
        self.ends = like.new_ones(edges, 4)
        functions = len(basis.frequencies) + len(basis.relative_frequencies)
        self.radial = like.new_empty(edges, functions)

    def lay_out(self, z: Tensor, edge_index: Tensor, counts: Tensor, row: Tensor) -> None:
        """Give edges their places.

        Args:
            z: (A,) atomic numbers.
            edge_index: (2, E) senders and receivers, sorted by receiver.
            counts: (A,) edges that each atom receives.
            row: (A,) row of each atom.
        """
        sender, receiver = edge_index
        self.place = place_edges(self._first, row, receiver, counts)
        self.sender.zero_().index_copy_(0, self.place, row.index_select(0, sender))
        self._vector.zero_()[0] = self._basis.cutoff
        radii = torch.empty_like(self.unit[0, : len(z)])
        radii[row] = self._basis.radii_angstrom.to(radii).index_select(0, z)
        self._sizes = radii.index_select(0, self._row) + radii.index_select(0, self.sender)

    def measure(self, vector: Tensor) -> None:
        """Fill in what depends on edge vectors (3, E) in Å, from receiver to sender."""
        self._vector.index_copy_(1, self.place, vector)
        self._distance = (self._vector * self._vector).sum(dim=0).sqrt_()
        torch.div(self._vector, self._distance, out=self.unit)
        self.ends[:, :3].copy_(self.unit.T)
        radial, self._slopes = self._basis.with_slopes(self._distance, self._sizes)
        self.radial.copy_(radial.T)

    def gradient(self, unit: Tensor, radial: Tensor) -> Tensor:
        """Gradient of the edge vectors, (3, E), from those of `unit` and `radial`."""
        along = (self.unit * unit).sum(dim=0)
        length = (self._slopes * radial.T).sum(dim=0)
        gradient = unit / self._distance + self.unit * (length - along / self._distance)
        return gradient.index_select(1, self.place)


class SenderSums:
    """Sums of what edges give to the atoms that send, several times as fast as ``index_add_``."""

    def __init__(self, sender: Tensor, atoms: int) -> None:
        """Sort edges by sender.

        Args:
            sender: (n,) atoms that send.
            atoms: A, among so many.
        """
        numbers = sender.numpy()
        # Small integers are sorted in a tenth of the time.
        order = numbers.astype(np.min_scalar_type(atoms)).argsort(kind="stable")
        ordered = numbers[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        self._scalars = _Bags.of(order, starts, ordered[starts])
        axes = np.arange(3)[:, None]
        self._vectors = _Bags.of(
            order + axes * len(order), starts + axes * len(order), ordered[starts] + axes * atoms
        )

    def add(self, values: Tensor, sums: Tensor) -> None:
        """Add values (n, F) to sums (A, F)."""
        self._scalars.add(values, sums)

    def add_vectors(self, vectors: Tensor, sums: Tensor) -> None:
        """Add vectors (3 n, C) to sums (3 A, C)."""
        self._vectors.add(vectors, sums)


class _Bags(NamedTuple):
    """Rows that are summed, one place after another.

    Attributes:
        order: (n,) int32, the rows.
        starts: (P,) int32, where in the order the rows of each place begin.
        places: (P,) where their sums go, ascending.
    """

    order: Tensor
    starts: Tensor
    places: Tensor

    @classmethod
    def of(cls, order: IndexArray, starts: IndexArray, places: IndexArray) -> _Bags:
        """From arrays of any shape."""
        return cls(
            torch.from_numpy(order.astype(np.int32).ravel()),
            torch.from_numpy(starts.astype(np.int32).ravel()),
            torch.from_numpy(places.ravel()),
        )

    def add(self, rows: Tensor, sums: Tensor) -> None:
        """Add sums of rows (n, X) to those of their places."""
        found = embedding_bag(self.order, rows, self.starts, mode="sum")
        if len(found) == len(sums):
            sums.add_(found)
        else:
            sums.index_add_(0, self.places, found)
