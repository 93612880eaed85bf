"""What the messages of all EGNN layers share about the edges of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mtlpar.model.egnn.tabled.memory import Table
from mtlpar.model.geometry import Edge, EdgeRuns
from mtlpar.model.passes import ForcesFirst

# On a CPU a block's few buffers should stay in the last-level cache. Other devices that have no
# kernels of ours want large operations.
CPU_BLOCK_EDGES = 2048
_BLOCK_EDGES_ELSEWHERE = 65536


class Block(NamedTuple):
    """Consecutive edges that are computed together, n of them, between A atoms.

    Tables of vectors have 3 A rows: one axis of all atoms after the other.

    Attributes:
        edges: Which edges.
        receiver: (n,) atoms that receive.
        terms: (n, 2) rows of both atoms in a table of receivers' terms above senders'.
        receiver_rows: (3 n,) rows of the receivers in a table of vectors.
        sender_rows: (3 n,) rows of the senders there.
    """

    edges: slice
    receiver: Tensor
    terms: Tensor
    receiver_rows: Tensor
    sender_rows: Tensor

    @property
    def sender(self) -> Tensor:
        """(n,) atoms that send."""
        return self.sender_rows[: len(self.receiver)]


class Blocks(NamedTuple):
    """All edges, as `mtlpar.model.egnn.blocked` takes them.

    Attributes:
        parts: All edges in order.
        directions: (3, E, C) directions by axis, repeated for the channels of vectors.
        forces: The promise that forces are found first, if the geometry is differentiated.
    """

    parts: tuple[Block, ...]
    directions: Tensor
    forces: ForcesFirst | None


class PreparedEdges(NamedTuple):
    """Edges as the messages of a device want them.

    Attributes:
        edge: Geometry of the edges.
        runs: Edges by atom, where kernels take them.
        blocks: Edges in blocks, where these are taken.
        table: Edges in a table, where it is taken. None of the three: ordinary operations.
    """

    edge: Edge
    runs: EdgeRuns | None = None
    blocks: Blocks | None = None
    table: Table | None = None

    def to_rows(self, values: Tensor) -> Tensor:
        """Values of atoms (A, ...) in the order that messages know them by."""
        return values if self.table is None else values.index_select(0, self.table.order)

    def of_atoms(self, values: Tensor) -> Tensor:
        """The inverse of `to_rows`."""
        return values if self.table is None else values.index_select(0, self.table.row)


def in_blocks(
    edge: Edge, num_atoms: int, channels: int, forces: ForcesFirst | None = None
) -> PreparedEdges:
    """Divide edges into blocks of like size.

    Args:
        edge: Geometry of the E edges.
        num_atoms: A.
        channels: C, vectors that a layer adds to each atom.
        forces: The promise that forces are found first, if there is one.
    """
    directions = edge.direction.T[:, :, None].expand(-1, -1, channels).contiguous()
    parts = tuple(_block(edge, edges, num_atoms) for edges in _slices(edge))
    return PreparedEdges(edge, blocks=Blocks(parts, directions, forces))


def _slices(edge: Edge) -> Iterator[slice]:
    most = CPU_BLOCK_EDGES if edge.radial.device.type == "cpu" else _BLOCK_EDGES_ELSEWHERE
    count = len(edge.receiver)
    size = -(-count // max(1, -(-count // most)))
    for start in range(0, count, max(1, size)):
        yield slice(start, start + size)


def _block(edge: Edge, edges: slice, num_atoms: int) -> Block:
    receiver, sender = edge.receiver[edges], edge.sender[edges]
    axes = torch.arange(3, device=receiver.device)[:, None] * num_atoms
    return Block(
        edges,
        receiver,
        torch.stack([receiver, sender + num_atoms], dim=1),
        (receiver + axes).view(-1),
        (sender + axes).view(-1),
    )
