"""The gradient of a layer's messages by the geometry, which can be differentiated once more.

Forces that are gradients of an energy are trained by second derivatives. Let g be the gradient of
some number by the layer's sums, and x' what the formula of `mtlpar.model.egnn.tabled.messages`
makes of x when its operands move in a direction (a', s', V', e', u'). The gradient of the operands
times that direction is g times the sums' move, so its gradient by g is the move itself, and its
gradients by atoms and weights are the chain rule on the move with g held still. Each quantity x of
the forward pass thus comes with its move x', with the gradient by x', which is what the first
backward pass has for x, and with the gradient by x, which takes in what the sums themselves are
wanted for: a loss of energies and forces goes back along the edges once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtlpar.model.egnn.tabled.memory import Block, Messages
from mtlpar.model.egnn.tabled.messages import (
    Gradients,
    Layer,
    Left,
    Tables,
    add_dot,
    dot,
    dot_rows,
    of_push,
    of_receiver_weight,
    row_vectors,
    silu_backward_into,
    through_push,
)


def by_atoms_and_geometry(
    layer: Layer, pulls: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a, s, V, e and u by the chain rule on the formula.

    Args:
        layer: The layer.
        pulls: Gradients of the sums of messages, (A, F), and of vectors, (3, A, C).
    """
    grads, weights, given = Gradients.of(layer), layer.weights, layer.given
    of_sums = through_push(weights, *pulls)
    of_radial, of_unit = torch.empty_like(given.radial), torch.empty_like(given.direction)
    for block in layer.table.blocks:
        messages = layer.messages(block)
        grad, other, *_ = block.scratch.wide
        grad_rows, other_rows, *_ = block.scratch.wide_rows
        narrow, pull = block.scratch.narrow[0], of_sums[block.atoms]
        unit = torch.bmm(pull[:, :3], messages.message_rows.mT)
        torch.bmm(block.ends, pull, out=grad_rows)
        if layer.carried:
            dot_rows(block, messages, pulls[1], out=0)
            grad.addmm_(narrow, weights.carry)
        torch.mul(messages.activated, grad, out=other)
        radial = torch.mm(other, weights.filter, out=of_radial[block.places])
        grad.mul_(messages.weight)
        silu_backward_into(grad, messages.inner, grad_input=grad)
        torch.mm(grad, weights.message, out=other)
        silu_backward_into(other, messages.hidden, grad_input=other)
        radial.addmm_(other, weights.feature[:, layer.carried :])
        torch.bmm(block.ends.mT, other_rows, out=grads.receiver[block.atoms])
        block.sender_sums.add(other, grads.sender)
        if layer.carried:
            unit.baddbmm_(given.receiver[block.atoms, :3], other_rows.mT)
            torch.mm(other, weights.feature[:, : layer.carried], out=narrow)
            products = torch.mul(messages.carried, narrow, out=block.scratch.products)
            unit.add_(products.sum(dim=2).view(3, *block.rows).transpose(0, 1))
            torch.mul(narrow, block.unit, out=products)
            grads.add_sent(block, messages, pulls[1])
        of_unit[block.places].view(*block.rows, 3).copy_(unit.mT)
    return *grads.by_atom(layer), of_radial, of_unit


class Moves(NamedTuple):
    """A direction that operands move in, and what the first pass back found for the sums.

    Attributes:
        receiver: [W_i V_i', a_i'], (A, 4, F).
        sender: s', (A, F).
        vectors: V', (3, A, D).
        radial: e', (n, K).
        unit: u', (3, n, 1).
        ends: [u, 1, u'], (n, 7).
        received: Gradient of the sums of messages, (A, F).
        pushed: That of vectors, (3, A, C).
    """

    receiver: Tensor
    sender: Tensor
    vectors: Tensor
    radial: Tensor
    unit: Tensor
    ends: Tensor
    received: Tensor
    pushed: Tensor

    @classmethod
    def of(cls, layer: Layer, moves: Sequence[Tensor], pulls: tuple[Tensor, Tensor]) -> Moves:
        """From how a, s, V, e and u move, and what the first pass back began with."""
        *atoms, radial, turn = moves
        tables = Tables.of(layer.weights, (radial, turn), *atoms)
        unit = turn.T.contiguous()[:, :, None]
        ends = torch.cat([layer.given.direction, turn.new_ones(len(turn), 1), turn], dim=1)
        return cls(*tables[:4], unit, ends, *pulls)

    @staticmethod
    def shapes(layer: Layer, channels: int) -> list[tuple[int, ...]]:
        """Shapes of these tensors."""
        (atoms, _, width), edges = layer.given.receiver.shape, len(layer.given.radial)
        return [
            (atoms, 4, width),
            (atoms, width),
            tuple(layer.given.vectors.shape),
            tuple(layer.given.radial.shape),
            (3, edges, 1),
            (edges, 7),
            (atoms, width),
            (3, atoms, channels),
        ]

    def ends_of(self, block: Block) -> Tensor:
        """[u, 1, u'] of a block, (a, M, 7)."""
        return self.ends[block.places].view(*block.rows, 7)

    def receiver_of(self, layer: Layer, block: Block) -> Tensor:
        """[W_i V_i', a_i'] above W_i V_i, (a, 7, F): what edges see of receivers that move."""
        still = layer.given.receiver[block.atoms, :3]
        return torch.cat([self.receiver[block.atoms], still], dim=1)

    def send(
        self, layer: Layer, block: Block, still: Messages, messages: Messages, *, has_inner: bool
    ) -> None:
        """Fill in how the messages of a block, which are ``still``, move."""
        weights = layer.weights
        torch.index_select(self.sender, 0, block.sender, out=messages.hidden)
        messages.hidden_rows.baddbmm_(self.ends_of(block), self.receiver_of(layer, block))
        if layer.carried:
            vectors = self.vectors.flatten(0, 1)
            torch.index_select(vectors, 0, block.sender_vectors, out=messages.carried_flat)
            dot(messages.carried, block.unit, out=messages.along)
            add_dot(still.carried, self.unit[:, block.places], out=messages.along)
        radial = self.radial[block.places]
        messages.radial.copy_(radial)
        messages.hidden.addmm_(messages.features, weights.feature.T)
        if not has_inner:
            outer = block.scratch.wide[0]
            silu_backward_into(messages.hidden, still.hidden, grad_input=outer)
            torch.mm(outer, weights.message.T, out=messages.inner)
        silu_backward_into(messages.inner, still.inner, grad_input=messages.activated)
        torch.mm(radial, weights.filter.T, out=messages.weight)
        torch.mul(messages.activated, still.weight, out=messages.message)
        messages.message.addcmul_(still.activated, messages.weight)
        if layer.carried:
            torch.mm(messages.message, weights.carry.T, out=messages.lengths)


def moves_of_sums(layer: Layer, moves: Moves) -> tuple[Left, Tensor]:
    """What is left of the moves, and how the sums of carried vectors move, (3, A, D)."""
    carried = torch.empty_like(layer.given.vectors)
    left = Left(*(torch.empty_like(one) for one in layer.left))
    for block in layer.table.blocks:
        still = layer.messages(block)
        messages, _, _ = layer.memory_of(left.memory, block, 1)
        moves.send(layer, block, still, messages, has_inner=False)
        ends, total = moves.ends_of(block), left.total[block.atoms]
        torch.bmm(ends[:, :, :4].mT, messages.message_rows, out=total)
        total[:, :3].add_(torch.bmm(ends[:, :, 4:].mT, still.message_rows))
        if layer.carried:
            products = torch.mul(still.carried, messages.lengths, out=block.scratch.products)
            products.addcmul_(messages.carried, still.lengths)
            torch.sum(block.scratch.products_rows, 2, out=carried[:, block.atoms])
    return left, carried


class _Silu(NamedTuple):
    """silu at x, (n, F), that moves by x', in memory of a block.

    Attributes:
        value: silu(x).
        slope: silu'(x).
        bend: silu''(x) x', how the slope moves.
    """

    value: Tensor
    slope: Tensor
    bend: Tensor

    @classmethod
    def of(cls, x: Tensor, move: Tensor, value: Tensor | None, memory: Sequence[Tensor]) -> _Silu:
        """With s = 1 / (1 + exp(-x)): silu' = s + (1 - s) x s, silu'' = s (1 - s) (2 + x - 2 x s).

        Args:
            x: Where.
            move: x'.
            value: silu(x) if it is known.
            memory: Four of (n, F), and a fifth for the value.
        """
        sigmoid, rest, slope, bend, *more = memory
        torch.sigmoid(x, out=sigmoid)
        if value is None:
            value = torch.mul(x, sigmoid, out=more[0])
        torch.sub(1, sigmoid, out=rest)
        torch.addcmul(sigmoid, value, rest, out=slope)
        torch.sub(x, value, alpha=2, out=bend)
        bend.add_(2).mul_(sigmoid).mul_(rest).mul_(move)
        return cls(value, slope, bend)

    def through(self, of_value: Tensor, of_move: Tensor) -> None:
        """Turn gradients by silu and its move into those by x and x', in place."""
        of_value.mul_(self.slope).addcmul_(of_move, self.bend)
        of_move.mul_(self.slope)


class _Motion(NamedTuple):
    """A layer that moves, on its way back.

    Attributes:
        layer: The layer.
        moves: How it moves.
        of_sums: Gradients of [S_i, received_i] and, as edges turn, of how S_i moves, (A, 7, F).
        of_moves: Gradients of how [S_i, received_i] moves, (A, 4, F).
        pushed: Gradients of the pushed vectors, (3, A, C); those of their moves are in `moves`.
        grads: Gradients that blocks add to.
        of_receiver_moves: Of [W_i V_i', a_i'], (A, 4, F); each block writes its own.
    """

    layer: Layer
    moves: Moves
    of_sums: Tensor
    of_moves: Tensor
    pushed: Tensor
    grads: Gradients
    of_receiver_moves: Tensor


def by_atoms_and_weights_in_motion(
    layer: Layer, moves: Moves, left: tuple[Tensor, Tensor], pulls: tuple[Tensor, Tensor]
) -> list[Tensor]:
    """Gradients of atoms' terms, vectors and weights, of the sums and of their moves at once.

    Args:
        layer: The layer.
        moves: How it moves.
        left: What comes to W_v from how [S_i, received_i] moves, (C, F), and what was kept of how
            messages move.
        pulls: Gradients of the sums of messages, (A, F), and of vectors, (3, A, C).
    """
    grads, weights, (push, memory) = Gradients.of(layer), layer.weights, left
    grads.weights.push.add_(of_push(layer.left.total, pulls[1])).add_(push)
    of_moves = through_push(weights, moves.received, moves.pushed)
    of_sums = torch.cat([through_push(weights, *pulls), of_moves[:, :3]], dim=1)
    of_receiver_moves = torch.empty_like(grads.receiver)
    motion = _Motion(layer, moves, of_sums, of_moves, pulls[1], grads, of_receiver_moves)
    for block in layer.table.blocks:
        still = layer.messages(block)
        move, are_there, has_inner = layer.memory_of(memory, block, 1)
        if not are_there:
            moves.send(layer, block, still, move, has_inner=has_inner)
        _to_hidden(motion, block, still, move)
        _to_atoms(motion, block, still, move)
    if layer.carried:
        of_receiver = of_receiver_weight(of_receiver_moves, moves.vectors)
        grads.weights.receiver.add_(of_receiver)
    return grads.by_operand(layer)


def _to_hidden(motion: _Motion, block: Block, still: Messages, move: Messages) -> None:
    """From gradients of the sums to those of p and p', in the third and fourth wide buffers."""
    layer, moves = motion.layer, motion.moves
    weights, into = layer.weights, motion.grads.weights
    of_value, of_move, other, other_move, *memory = block.scratch.wide
    torch.bmm(moves.ends_of(block), motion.of_sums[block.atoms], out=block.scratch.wide_rows[0])
    torch.bmm(block.ends, motion.of_moves[block.atoms], out=block.scratch.wide_rows[1])
    if layer.carried:
        first, second = block.scratch.narrow
        pulling = row_vectors(block, moves.pushed)
        dot_rows(block, still, motion.pushed, out=0)
        add_dot(move.carried_rows, pulling, out=block.scratch.narrow_rows[0])
        dot_rows(block, still, moves.pushed, out=1)
        into.carry.addmm_(first.T, still.message).addmm_(second.T, move.message)
        of_value.addmm_(first, weights.carry)
        of_move.addmm_(second, weights.carry)
    torch.mul(of_value, still.activated, out=other).addcmul_(of_move, move.activated)
    into.filter.addmm_(other.T, still.radial)
    torch.mul(of_move, still.activated, out=other)
    into.filter.addmm_(other.T, move.radial)
    of_value.mul_(still.weight).addcmul_(of_move, move.weight)
    of_move.mul_(still.weight)
    _Silu.of(still.inner, move.inner, still.activated, memory).through(of_value, of_move)
    outer = _Silu.of(still.hidden, move.hidden, None, [*memory, other])
    torch.mul(outer.slope, move.hidden, out=other_move)
    into.message.addmm_(of_value.T, outer.value).addmm_(of_move.T, other_move)
    into.bias.add_(of_value.sum(0))
    torch.mm(of_value, weights.message, out=other)
    torch.mm(of_move, weights.message, out=other_move)
    outer.through(other, other_move)
    into.feature.addmm_(other.T, still.features).addmm_(other_move.T, move.features)


def _to_atoms(motion: _Motion, block: Block, still: Messages, move: Messages) -> None:
    """From gradients of p and p' to those of what atoms bring."""
    layer, moves, grads = motion.layer, motion.moves, motion.grads
    weights, scratch = layer.weights, block.scratch
    _, _, grad, grad_move, *_ = scratch.wide
    _, _, grad_rows, grad_move_rows, *_ = scratch.wide_rows
    receiver = grads.receiver[block.atoms]
    torch.bmm(block.ends.mT, grad_rows, out=receiver)
    block.sender_sums.add(grad, grads.sender)
    if not layer.carried:
        return
    found = torch.bmm(moves.ends_of(block).mT, grad_move_rows)
    receiver[:, :3].add_(found[:, 4:])
    motion.of_receiver_moves[block.atoms] = found[:, :4]
    first, second = scratch.narrow
    for values, out in ((grad, first), (grad_move, second)):
        torch.mm(values, weights.feature[:, : layer.carried], out=out)
    products = torch.mul(first, block.unit, out=scratch.products)
    products.addcmul_(second, moves.unit[:, block.places])
    pulling = row_vectors(block, moves.pushed)
    scratch.products_rows.addcmul_(move.lengths_rows, pulling)
    grads.add_sent(block, still, motion.pushed)
