"""A table of the edges that a layer's messages go along, and memory for what they make.

The names are those of the formula of `mtlpar.model.egnn.tabled.messages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mtlpar.model.egnn.edge_table import IndexArray, Rows, SenderSums, place_edges
from mtlpar.model.geometry import Edge
from mtlpar.model.passes import ForcesFirst

# For edges of 64 features. More at once take no less time each, and another block takes as long as
# so many edges.
BLOCK_EDGES = 4096
BLOCK_COST_EDGES = 200
_FEWEST_EDGES = 512
# Buffers for features of edges that the longest computation needs.
_WIDE = 8


class Messages:
    """What edges of a block leave for the pass back, or how that moves.

    Attributes:
        hidden: p, (n, F); ``hidden_rows`` are the same numbers as (a, M, F).
        inner: z, (n, F).
        activated: silu(z), (n, F).
        weight: W_f e, (n, F).
        message: m, (n, F); ``message_rows`` as (a, M, F).
        features: [V_j . u, e], (n, D + K), which are ``along`` and ``radial``.
        lengths: W_c m, (n, D); ``lengths_rows`` as (a, M, D).
        carried: V_j, (3, n, D); ``carried_flat`` as (3 n, D), ``carried_rows`` as (3, a, M, D).
    """

    def __init__(self, memory: Tensor, rows: tuple[int, int], sizes: Sizes) -> None:
        """Take memory.

        Args:
            memory: As many numbers as `Sizes.numbers` says.
            rows: a and M.
            sizes: Of the layer.
        """
        width, carried, radial = sizes
        edges = rows[0] * rows[1]
        *wide, features, lengths, vectors = torch.split(memory, sizes.of_messages(edges))
        self.hidden, self.inner, self.activated, self.weight, self.message = (
            values.view(edges, width) for values in wide
        )
        self.hidden_rows, self.message_rows = (
            values.view(*rows, width) for values in (self.hidden, self.message)
        )
        self.features = features.view(edges, carried + radial)
        self.along, self.radial = self.features.tensor_split((carried,), dim=1)
        self.lengths, self.lengths_rows = (
            lengths.view(*shape, carried) for shape in ((edges,), rows)
        )
        self.carried, self.carried_flat, self.carried_rows = (
            vectors.view(*shape, carried) for shape in ((3, edges), (3 * edges,), (3, *rows))
        )


class Sizes(NamedTuple):
    """Sizes of a layer's messages.

    Attributes:
        width: F.
        carried: D, vectors that atoms come with.
        radial: K.
    """

    width: int
    carried: int
    radial: int

    def of_messages(self, edges: int) -> list[int]:
        """Numbers in the parts of `Messages`."""
        wide = [edges * self.width] * 5
        return [
            *wide,
            edges * (self.carried + self.radial),
            edges * self.carried,
            3 * edges * self.carried,
        ]

    def numbers(self, edges: int) -> int:
        """Numbers in `Messages`."""
        return sum(self.of_messages(edges))


class Scratch:
    """Memory for the results of one block after another.

    Attributes:
        wide: Some of (n, F); ``wide_rows`` are the same numbers as (a, M, F).
        narrow: Two of (n, C); ``narrow_rows`` as (a, M, C).
        products: (3, n, C); ``products_flat`` as (3 n, C), ``products_rows`` as (3, a, M, C).
        messages: Numbers for the `Messages` of a layer and for how they move.
    """

    def __init__(self, memory: Tensor, rows: tuple[int, int], sizes: Sizes) -> None:
        """Take as many numbers as `numbers` says."""
        edges, (width, channels, _) = rows[0] * rows[1], sizes
        *found, products, first, second, _ = torch.split(
            memory, self._parts(edges, sizes, len(memory))
        )
        self.wide = [values.view(edges, width) for values in found[:_WIDE]]
        self.wide_rows = [values.view(*rows, width) for values in found[:_WIDE]]
        self.narrow = [values.view(edges, channels) for values in found[_WIDE:]]
        self.narrow_rows = [values.view(*rows, channels) for values in found[_WIDE:]]
        self.products, self.products_flat, self.products_rows = (
            products.view(*shape, channels) for shape in ((3, edges), (3 * edges,), (3, *rows))
        )
        self.messages = first, second

    @classmethod
    def numbers(cls, edges: int, sizes: Sizes) -> int:
        """How many numbers n edges need."""
        return sum(cls._parts(edges, sizes, 0)[:-1])

    @staticmethod
    def _parts(edges: int, sizes: Sizes, total: int) -> list[int]:
        width, channels, _ = sizes
        parts = [edges * width] * _WIDE + [edges * channels] * 2 + [3 * edges * channels]
        parts += [sizes.numbers(edges)] * 2
        return [*parts, total - sum(parts)]


class Block:
    """Consecutive rows of a table of edges that are computed together: a rows of M places.

    Attributes:
        atoms: Which rows.
        places: Where their n = a M edges lie.
        rows: a and M.
        sender: (n,) rows of the atoms that send.
        unit: (3, n, 1) unit vectors.
        ends: (a, M, 4) unit vectors and ones.
        scratch: Memory that all blocks share.
    """

    def __init__(
        self,
        atoms: slice,
        places: slice,
        num_atoms: int,
        table: tuple[Tensor, Tensor, Tensor],
        scratch: Tensor,
        sizes: Sizes,
    ) -> None:
        """Look at a part of the senders, unit vectors and ends of all places."""
        senders, unit, ends = table
        self._num_atoms = num_atoms
        self.atoms, self.places = atoms, places
        count = atoms.stop - atoms.start
        self.rows = count, (places.stop - places.start) // count
        self.sender, self.unit = senders[places], unit[:, places]
        self.ends = ends[places].view(*self.rows, 4)
        self.scratch = Scratch(scratch, self.rows, sizes)

    @property
    def edges(self) -> int:
        """How many edges are computed together, n."""
        return len(self.sender)

    @cached_property
    def sender_vectors(self) -> Tensor:
        """(3 n,) rows of the senders in a table of vectors with one axis after the other."""
        axes = torch.arange(3, device=self.sender.device)[:, None] * self._num_atoms
        return (self.sender + axes).view(-1)

    @cached_property
    def sender_sums(self) -> SenderSums:
        """Sums over the edges of each sender."""
        return SenderSums(self.sender, self._num_atoms)


class Table(NamedTuple):
    """Edges in a table by receiver, and atoms in the order of its rows.

    Attributes:
        edge: The edges, between rows.
        order: (A,) the atom of each row.
        row: (A,) the row of each atom.
        blocks: All rows.
        radial: (n, K) radial functions; zero where there is no edge.
        direction: (n, 3) unit vectors, and zeros.
        forces: The promise that forces are found first, if the geometry is differentiated.
    """

    edge: Edge
    order: Tensor
    row: Tensor
    blocks: tuple[Block, ...]
    radial: Tensor
    direction: Tensor
    forces: ForcesFirst | None


def in_table(
    edge: Edge, num_atoms: int, sizes: tuple[int, int], forces: ForcesFirst | None
) -> Table:
    """Give each edge a place in the row of its receiver.

    Args:
        edge: Geometry of the E edges, sorted by receiver.
        num_atoms: A, one at least.
        sizes: F and C of the layers.
        forces: The promise that forces are found first, if there is one.
    """
    counts = torch.bincount(edge.receiver, minlength=num_atoms)
    order = counts.argsort(stable=True)
    rows = _rows(counts.index_select(0, order).numpy(), sizes[0])
    row = torch.empty_like(order).index_copy_(
        0, order, torch.arange(num_atoms, device=order.device)
    )
    place = place_edges(rows.first, row, edge.receiver, counts)
    ends = {"sender": row.index_select(0, edge.sender)}
    ends["receiver"] = row.index_select(0, edge.receiver)
    total = int(rows.edges.sum())
    senders = row.new_zeros(total).index_copy_(0, place, ends["sender"])
    radial, direction = (
        values.new_zeros(total, values.shape[1]).index_copy(0, place, values)
        for values in (edge.radial, edge.direction)
    )
    blocks = tuple(_divide(rows, senders, direction.detach(), Sizes(*sizes, radial.shape[1])))
    return Table(edge._replace(**ends), order, row, blocks, radial, direction, forces)


def _rows(counts: IndexArray, width: int) -> Rows:
    """Rows for edges of so many features."""
    narrow = min(1, 64 / width)
    most = max(int(BLOCK_EDGES * narrow), min(BLOCK_EDGES, _FEWEST_EDGES))
    return Rows.cut(counts, most, cost=int(BLOCK_COST_EDGES * narrow))


def _divide(rows: Rows, senders: Tensor, direction: Tensor, sizes: Sizes) -> Iterator[Block]:
    unit = direction.T.contiguous()[:, :, None]
    ends = torch.cat([direction, direction.new_ones(len(direction), 1)], dim=1)
    scratch = direction.new_empty(Scratch.numbers(int(rows.edges.max()), sizes))
    atom = place = 0
    num_atoms = int(rows.atoms.sum())
    for count, edges in zip(rows.atoms.tolist(), rows.edges.tolist(), strict=True):
        atoms, places = slice(atom, atom + count), slice(place, place + edges)
        yield Block(atoms, places, num_atoms, (senders, unit, ends), scratch, sizes)
        atom, place = atoms.stop, places.stop
