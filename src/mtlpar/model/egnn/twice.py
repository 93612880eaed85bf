"""The gradient of a layer's messages by the geometry, which can be differentiated once more.

Forces that are gradients of an energy are trained by second derivatives. Let g be the gradient of
some number by the layer's sums, and x' what the formula of `mtlpar.model.egnn.messages` makes of x
when its operands move in a direction (a', s', V', e', u'). The gradient of the operands times that
direction is g times the sums' move, so its gradient by g is the move itself, and its gradients by
atoms and weights are the chain rule on the move with g held still. Each quantity x of the forward
pass thus comes with its move x', with the gradient by x', which is what the first backward pass
has for x, and with the gradient by x. Pairs (x, x') and (gradient by x, gradient by x') lie above
each other in one tensor: one product with a weight serves both, and the product of the two pairs
is the weight's gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from mtlpar.model.egnn.blocked import (
    Ends,
    Operands,
    add_terms,
    add_vectors,
    along,
    by_atom,
    by_operand,
    hidden,
    inner_of,
    length_gradients,
    lengths,
    of_edges,
    silu_backward,
    vector_features,
    zero_gradients,
)
from mtlpar.model.egnn.edges import Block


def by_atoms_and_geometry(
    whole: Operands,
    blocks: Sequence[Block],
    kept: Tensor | None,
    grad_received: Tensor,
    grad_pushed: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of a, s, V, e and u by the chain rule on the formula.

    Args:
        whole: Operands.
        blocks: All edges.
        kept: z if it was kept.
        grad_received: Of the sums of messages, (A, F).
        grad_pushed: Of the sums of vectors, (3 A, C).
    """
    totals = zero_gradients(whole)
    radial, directions = torch.empty_like(whole.radial), torch.empty_like(whole.directions)
    terms = torch.cat([whole.at_receiver, whole.at_sender])
    for block in blocks:
        part = whole.in_block(block)
        ends = Ends.of(part, block)
        outside = hidden(terms, block.terms, ends.features, part.feature_weight)
        inner = inner_of(part, silu(outside)) if kept is None else kept[block.edges]
        unfiltered, weight = silu(inner), part.radial @ part.filter_weight.T
        push, carry = lengths(part, unfiltered * weight)
        pulls = of_edges(grad_pushed, block.receiver_rows)
        grad_lengths = length_gradients(pulls, part.directions, ends.sender).to(inner)
        grad = grad_received.index_select(0, block.receiver)
        grad.addmm_(grad_lengths, part.vector_weight)
        of_radial = unfiltered.mul_(grad) @ part.filter_weight
        grad = silu_backward(grad.mul_(weight), inner)
        grad = silu_backward(grad @ part.message_weight, outside)
        count = part.radial.shape[1]
        radial[block.edges] = of_radial.addmm_(grad, part.feature_weight[:, :count])
        add_terms(totals, block, grad)
        of_directions = push * pulls
        if part.carried:
            of_receiver, of_sender = vector_features(part, grad)
            of_directions.addcmul_(of_receiver, ends.receiver).addcmul_(of_sender, ends.sender)
            sent = (of_sender * part.directions).addcmul_(carry, pulls)
            add_vectors(totals, block, of_receiver * part.directions, sent)
        directions[:, block.edges] = of_directions
    atoms = (totals.at_receiver, totals.at_sender, by_atom(totals.vectors))
    return *atoms, radial.to(totals.at_receiver), directions


class _Silu(NamedTuple):
    """silu of x, (n, F), that moves by x'.

    Attributes:
        pair: silu(x) above its move, (2 n, F).
        slope: silu'(x).
        bend: silu''(x) x', how the slope moves.
    """

    pair: Tensor
    slope: Tensor
    bend: Tensor

    @classmethod
    def of(cls, x: Tensor, move: Tensor) -> _Silu:
        """With s = 1 / (1 + exp(-x)): silu = x s, its slope s + x s (1 - s), and so on."""
        sigmoid = x.sigmoid()
        rest = 1 - sigmoid
        pair = x.new_empty(2 * len(x), x.shape[1])
        value, moved = pair.chunk(2)
        torch.mul(x, sigmoid, out=value)
        slope = torch.addcmul(sigmoid, value, rest)
        bend = torch.addcmul(sigmoid + slope, value, sigmoid, value=-1).mul_(rest).mul_(move)
        torch.mul(slope, move, out=moved)
        return cls(pair, slope, bend)

    def through(self, grads: Tensor) -> Tensor:
        """Turn gradients by the pair, (2 n, F), into those by x and x', in place."""
        of_value, of_move = grads.chunk(2)
        of_value.mul_(self.slope).addcmul_(of_move, self.bend)
        of_move.mul_(self.slope)
        return grads


class _Edges(NamedTuple):
    """Edges of a block that move with their atoms' vectors.

    Attributes:
        part: Operands.
        move: The direction that they move in.
        sender: V_j, (3, n, D).
        sender_move: V_j'.
        features: Pairs [e, V_i . u, V_j . u], (2 n, K + 2 D).
    """

    part: Operands
    move: Operands
    sender: Tensor
    sender_move: Tensor
    features: Tensor

    @classmethod
    def of(cls, part: Operands, move: Operands, block: Block) -> _Edges:
        """Collect the vectors of a block's atoms."""
        features = torch.cat([part.radial, move.radial])
        sender, sender_move, receiver, receiver_move = (
            of_edges(table, rows)
            for rows in (block.sender_rows, block.receiver_rows)
            for table in (part.vectors, move.vectors)
        )
        if part.carried:
            columns = [
                _along(end, end_move, part.directions, move.directions).to(features)
                for end, end_move in ((receiver, receiver_move), (sender, sender_move))
            ]
            features = torch.cat([features, *columns], dim=1)
        return cls(part, move, sender, sender_move, features)

    def moves_of_pushes(self, push: Tensor, carry: Tensor) -> Tensor:
        """Moves of l u + c V_j, (3 n, C), from pairs of l, (2 n, C), and of c, (2 n, D)."""
        length, length_move = push.chunk(2)
        pushes = length_move * self.part.directions
        pushes.addcmul_(length, self.move.directions)
        if self.part.carried:
            length, length_move = carry.chunk(2)
            pushes.addcmul_(length_move, self.sender).addcmul_(length, self.sender_move)
        return pushes.view(-1, self.part.channels)

    def length_gradients(self, pulls: Tensor) -> Tensor:
        """Gradients by the pairs of l and c, (2 n, C + D), from those of pushes, (3, n, C)."""
        return torch.cat(
            [
                length_gradients(pulls, self.move.directions, self.sender_move),
                length_gradients(pulls, self.part.directions, self.sender),
            ]
        )

    def vector_gradients(
        self, grads: Tensor, pulls: Tensor, carry: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of V_i and V_j, (3, n, D) each.

        Args:
            grads: Of the pair of p, (2 n, F).
            pulls: Of the pushes, (3, n, C).
            carry: Pairs of c, (2 n, D).
        """
        found = []
        for pair in vector_features(self.part, grads):
            of_value, of_move = pair.chunk(2)
            grad = of_value * self.part.directions
            found.append(grad.addcmul_(of_move, self.move.directions))
        of_receiver, of_sender = found
        return of_receiver, of_sender.addcmul_(carry.chunk(2)[1], pulls)


def _along(vectors: Tensor, moves: Tensor, directions: Tensor, turns: Tensor) -> Tensor:
    """Pairs of components, (2 n, C), of vectors along directions that both move, (3, n, C)."""
    moved = (vectors * turns).addcmul_(moves, directions).sum(dim=0)
    return torch.cat([along(vectors, directions), moved])


def moves_and_gradients(
    whole: Operands,
    moving: Operands,
    blocks: Sequence[Block],
    kept: Tensor | None,
    pulls: tuple[Tensor, Tensor],
) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """Moves of the sums, (A, F) and (A, C, 3), and gradients of atoms' terms, vectors and weights.

    Args:
        whole: Operands.
        moving: The direction that they move in.
        blocks: All edges.
        kept: z if it was kept.
        pulls: What the sums' moves are multiplied by, (A, F) and (3 A, C).
    """
    totals = zero_gradients(whole)
    received = torch.zeros_like(totals.at_receiver)
    pushed = totals.vectors.new_zeros(len(whole.vectors), whole.channels)
    terms = torch.cat([whole.at_receiver, whole.at_sender, moving.at_receiver, moving.at_sender])
    for block in blocks:
        edges = _Edges.of(whole.in_block(block), moving.in_block(block), block)
        part, features = edges.part, edges.features
        rows = torch.cat([block.terms, block.terms + len(terms) // 2])
        outer = _Silu.of(*hidden(terms, rows, features, part.feature_weight).chunk(2))
        value, moved = outer.pair.chunk(2)
        inner = inner_of(part, value) if kept is None else kept[block.edges]
        unfiltered = _Silu.of(inner, moved @ part.message_weight.T)
        radial = torch.cat([part.radial, edges.move.radial])
        weight = radial @ part.filter_weight.T
        messages = _product(unfiltered.pair, weight)
        received.index_add_(0, block.receiver, messages.chunk(2)[1].to(received))
        push, carry = lengths(part, messages)
        pushed.index_add_(0, block.receiver_rows, edges.moves_of_pushes(push, carry))
        pull = of_edges(pulls[1], block.receiver_rows)
        grad_lengths = edges.length_gradients(pull).to(messages)
        totals.vector_weight.add_(grad_lengths.T @ messages)
        grad = grad_lengths @ part.vector_weight
        grad.chunk(2)[1].add_(pulls[0].index_select(0, block.receiver))
        totals.filter_weight.add_(_through_product(grad, unfiltered.pair).T @ radial)
        grad = unfiltered.through(_through_product(grad, weight))
        totals.message_weight.add_(grad.T @ outer.pair)
        totals.bias.add_(grad.chunk(2)[0].sum(0))
        grad = outer.through(grad @ part.message_weight)
        totals.feature_weight.add_(grad.T @ features)
        add_terms(totals, block, grad.chunk(2)[0])
        if part.carried:
            add_vectors(totals, block, *edges.vector_gradients(grad, pull, carry))
    return (received, by_atom(pushed)), by_operand(totals)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """The pair (x y, x y' + x' y) of pairs (x, x') and (y, y'), (2 n, F) each."""
    (x, x_move), (y, y_move) = first.chunk(2), second.chunk(2)
    pair = torch.empty_like(first)
    value, move = pair.chunk(2)
    torch.mul(x, y, out=value)
    torch.mul(x, y_move, out=move).addcmul_(x_move, y)
    return pair


def _through_product(grads: Tensor, other: Tensor) -> Tensor:
    """Gradients by one factor's pair from those by the product's and the other factor's pair."""
    (of_value, of_move), (y, y_move) = grads.chunk(2), other.chunk(2)
    pair = torch.empty_like(grads)
    value, move = pair.chunk(2)
    torch.mul(of_value, y, out=value).addcmul_(of_move, y_move)
    torch.mul(of_move, y, out=move)
    return pair
