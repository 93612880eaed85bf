"""The messages of `mtlpar.model.egnn.messages` on a CPU, in blocks of edges that stay in cache.

z alone is kept, one number per edge and feature where ordinary operations keep nine; the rest is
computed again, which costs no large product. With ``recompute`` nothing per edge is kept. Vectors
lie axis by axis, so that every operation on them runs over long rows; sums over neighbours are
scaled with the filter, which is made of fewer numbers than they.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, silu

from mtlpar.model.egnn.edges import Block
from mtlpar.model.geometry import TYPICAL_NEIGHBORS

_SCALE = 1 / math.sqrt(TYPICAL_NEIGHBORS)
silu_backward = torch.ops.aten.silu_backward.default


class Operands(NamedTuple):
    """Everything that messages are made of; see the formula in `mtlpar.model.egnn.messages`.

    Attributes:
        at_receiver: a, (A, F).
        at_sender: s, (A, F).
        vectors: V, (A, D, 3); (3 A, D) as `in_tables` gives it.
        feature_weight: W_x, (F, K + 2 D).
        message_weight: W, (F, F).
        bias: w, (F,).
        filter_weight: W_f, (F, K); divided by the root of a typical count as `in_tables` gives it.
        vector_weight: W_v above W_c, (C + D, F).
        radial: e, (E, K).
        directions: u, (3, E, C): by axis, repeated for the channels.
    """

    at_receiver: Tensor
    at_sender: Tensor
    vectors: Tensor
    feature_weight: Tensor
    message_weight: Tensor
    bias: Tensor
    filter_weight: Tensor
    vector_weight: Tensor
    radial: Tensor
    directions: Tensor

    def in_tables(self, dtype: torch.dtype) -> Operands:
        """As blocks want them, with products of numbers in that type."""
        rounded = {name: getattr(self, name).to(dtype) for name in _ROUNDED}
        rounded["filter_weight"] = rounded["filter_weight"] * _SCALE
        return self._replace(vectors=by_axis(self.vectors), **rounded)

    def in_block(self, block: Block) -> Operands:
        """The same with one block's edges."""
        directions = self.directions[:, block.edges]
        return self._replace(radial=self.radial[block.edges], directions=directions)

    @property
    def carried(self) -> int:
        """D, vectors that atoms come with."""
        return self.vectors.shape[1]

    @property
    def channels(self) -> int:
        """C, vectors that a layer adds."""
        return len(self.vector_weight) - self.carried


WEIGHTS = Operands._fields[3:8]
# Forces are made of vectors and directions, which are never rounded.
_ROUNDED = tuple(name for name in Operands._fields if name not in ("vectors", "directions"))


def by_axis(vectors: Tensor) -> Tensor:
    """Vectors (A, C, 3) as a table (3 A, C): one axis of all atoms after the other."""
    atoms, channels, _ = vectors.shape
    return vectors.permute(2, 0, 1).reshape(3 * atoms, channels)


def by_atom(table: Tensor) -> Tensor:
    """The inverse of `by_axis`."""
    atoms, channels = len(table) // 3, table.shape[1]
    return table.view(3, atoms, channels).permute(1, 2, 0).contiguous()


def of_edges(table: Tensor, rows: Tensor) -> Tensor:
    """What a table (3 A, C) has for the atoms of edges, (3, n, C)."""
    return table.index_select(0, rows).view(3, len(rows) // 3, table.shape[1])


def along(vectors: Tensor, directions: Tensor) -> Tensor:
    """Components (n, C) of vectors (3, n, C)."""
    return (vectors * directions).sum(dim=0)


class Ends(NamedTuple):
    """Vectors of the atoms of edges, (3, n, D), and what edges see beside scalars.

    Attributes:
        receiver: V_i.
        sender: V_j.
        features: [e, V_i . u, V_j . u], (n, K + 2 D).
    """

    receiver: Tensor
    sender: Tensor
    features: Tensor

    @classmethod
    def of(cls, operands: Operands, block: Block) -> Ends:
        """Collect them for a block, whose operands are given."""
        receiver = of_edges(operands.vectors, block.receiver_rows)
        sender = of_edges(operands.vectors, block.sender_rows)
        features = operands.radial
        if operands.carried:
            ends = [along(end, operands.directions).to(features) for end in (receiver, sender)]
            features = torch.cat([features, *ends], dim=1)
        return cls(receiver, sender, features)


def hidden(terms: Tensor, rows: Tensor, features: Tensor, weight: Tensor) -> Tensor:
    """The formula's p, (n, F).

    Args:
        terms: a above s, (2 A, F).
        rows: (n, 2) rows there.
        features: (n, K + 2 D).
        weight: W_x.
    """
    # Adds up the two rows of an edge on the way, in a third of the time of two selections.
    return embedding_bag(rows, terms, mode="sum").addmm_(features, weight.T)


def sums(
    whole: Operands, blocks: Sequence[Block], *, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sums of messages (A, F) and of vectors (3 A, C), in float32 at least, and z if it is kept."""
    atoms, width = whole.at_receiver.shape
    exact = at_least_float32(whole.at_receiver.dtype)
    received = whole.at_receiver.new_zeros(atoms, width, dtype=exact)
    pushed = whole.vectors.new_zeros(3 * atoms, whole.channels)
    kept = whole.at_receiver.new_empty(len(whole.radial), width) if keep else None
    terms = torch.cat([whole.at_receiver, whole.at_sender])
    for block in blocks:
        part = whole.in_block(block)
        ends = Ends.of(part, block)
        outer = silu(hidden(terms, block.terms, ends.features, part.feature_weight), inplace=True)
        out = None if kept is None else kept[block.edges]
        inner = torch.addmm(part.bias, outer, part.message_weight.T, out=out)
        message = silu(inner).mul_(part.radial @ part.filter_weight.T)
        received.index_add_(0, block.receiver, message.to(exact))
        push, carry = lengths(part, message)
        pushes = push * part.directions
        if part.carried:
            pushes.addcmul_(carry, ends.sender)
        pushed.index_add_(0, block.receiver_rows, pushes.view(-1, part.channels))
    return received, pushed, kept


def lengths(operands: Operands, messages: Tensor) -> tuple[Tensor, Tensor]:
    """W_v m, (n, C), and W_c m, (n, D), of messages (n, F): what vectors are multiplied by."""
    channels = operands.channels
    push, carry = operands.vector_weight[:channels], operands.vector_weight[channels:]
    return (messages @ push.T).to(operands.vectors), (messages @ carry.T).to(operands.vectors)


def length_gradients(pulls: Tensor, directions: Tensor, carried: Tensor) -> Tensor:
    """Gradients of `lengths`, (n, C + D), from those of the pushes, (3, n, C)."""
    push = along(pulls, directions)
    return torch.cat([push, along(pulls, carried)], dim=1) if carried.shape[2] else push


def by_atoms_and_weights(
    whole: Operands,
    blocks: Sequence[Block],
    kept: Tensor | None,
    grad_received: Tensor,
    grad_pushed: Tensor,
) -> list[Tensor]:
    """Gradients of atoms' terms, vectors and weights, by the chain rule on the formula."""
    totals = zero_gradients(whole)
    terms = torch.cat([whole.at_receiver, whole.at_sender])
    for block in blocks:
        part = whole.in_block(block)
        ends = Ends.of(part, block)
        outside = hidden(terms, block.terms, ends.features, part.feature_weight)
        outer = silu(outside)
        inner = inner_of(part, outer) if kept is None else kept[block.edges]
        unfiltered, weight = silu(inner), part.radial @ part.filter_weight.T
        message = unfiltered * weight
        pulls = of_edges(grad_pushed, block.receiver_rows)
        grad_lengths = length_gradients(pulls, part.directions, ends.sender).to(message)
        totals.vector_weight.add_(grad_lengths.T @ message)
        _, carry = lengths(part, message)
        grad = torch.index_select(grad_received, 0, block.receiver, out=message)
        grad.addmm_(grad_lengths, part.vector_weight)
        totals.filter_weight.add_(unfiltered.mul_(grad).T @ part.radial)
        grad = silu_backward(grad.mul_(weight), inner)
        totals.message_weight.add_(grad.T @ outer)
        totals.bias.add_(grad.sum(0))
        grad = silu_backward(torch.mm(grad, part.message_weight, out=outer), outside)
        totals.feature_weight.add_(grad.T @ ends.features)
        add_terms(totals, block, grad)
        if part.carried:
            of_receiver, of_sender = vector_features(part, grad)
            sent = (of_sender * part.directions).addcmul_(carry, pulls)
            add_vectors(totals, block, of_receiver * part.directions, sent)
    return by_operand(totals)


def inner_of(operands: Operands, outer: Tensor) -> Tensor:
    """The formula's z, (n, F), from silu(p)."""
    return torch.addmm(operands.bias, outer, operands.message_weight.T)


def vector_features(operands: Operands, grad_hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (n, D) of V_i . u and V_j . u from those of p, (n, F)."""
    weight = operands.feature_weight[:, -2 * operands.carried :]
    of_receiver, of_sender = (grad_hidden @ weight).to(operands.vectors).chunk(2, dim=1)
    return of_receiver.contiguous(), of_sender.contiguous()


def zero_gradients(operands: Operands) -> Operands:
    """Zeros for what is differentiated, in float32 at least; the rest as it is."""
    exact = at_least_float32(operands.at_receiver.dtype)
    zeros = {
        name: torch.zeros_like(getattr(operands, name), dtype=exact)
        for name in Operands._fields[:8]
    }
    return operands._replace(**zeros)


def add_terms(totals: Operands, block: Block, grad_hidden: Tensor) -> None:
    """Add gradients of p, (n, F), to those of a and s."""
    grad = grad_hidden.to(totals.at_receiver)
    totals.at_receiver.index_add_(0, block.receiver, grad)
    totals.at_sender.index_add_(0, block.sender, grad)


def add_vectors(totals: Operands, block: Block, of_receiver: Tensor, of_sender: Tensor) -> None:
    """Add gradients of V_i and V_j, (3, n, D) each."""
    for rows, grad in ((block.receiver_rows, of_receiver), (block.sender_rows, of_sender)):
        totals.vectors.index_add_(0, rows, grad.view(len(rows), totals.carried))


def by_operand(totals: Operands) -> list[Tensor]:
    """Gradients of the first eight operands from those of `Operands.in_tables`."""
    scaled = totals._replace(
        vectors=by_atom(totals.vectors), filter_weight=totals.filter_weight * _SCALE
    )
    return list(scaled[:8])


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """That type, or float32 if it is narrower."""
    return torch.promote_types(dtype, torch.float32)
