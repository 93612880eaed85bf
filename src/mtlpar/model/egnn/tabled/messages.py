"""The messages of `mtlpar.model.egnn.messages` along a table of edges, block after block.

With W_x = [W_e, W_i, W_j] the formula reads, for edges to atom i,

    p_ij = [u_ij, 1] . [W_i V_i, a_i] + s_j + [W_j, W_e] [V_j . u_ij, e_ij],
    z_ij = W silu(p_ij) + w,   m_ij = silu(z_ij) * (W_f e_ij),
    [S_i, received_i] = sum_j [u_ij, 1] m_ij,   pushed_i = W_v S_i + sum_j (W_c m_ij) V_j:

what is linear in u_ij is computed per atom, and sums over the edges of a receiver are products of
small matrices. The divisor of the sums is part of W_f.

Results go into memory that was there before: on a CPU a block's few buffers stay in cache, where a
new one for each result would not. What edges leave for the pass back is kept as far as it is
little; otherwise z alone is, and the rest is computed again without a large product; with
``recompute`` nothing is kept.

Atoms lie in the order of the table's rows here, n = a M edges belong to the a rows of a block, and
vectors have their axis first. Nothing is rounded, whatever autocast says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from mtlpar.model.egnn.tabled.memory import Block, Messages, Sizes, Table
from mtlpar.model.geometry import TYPICAL_NEIGHBORS

_SCALE = 1 / math.sqrt(TYPICAL_NEIGHBORS)
# More numbers than these are not kept of a layer: 32 MB in float32.
KEPT_NUMBERS: Final = 2**23

silu_into = torch.ops.aten.silu.out
silu_backward_into = torch.ops.aten.silu_backward.grad_input


class Operands(NamedTuple):
    """Everything that messages are made of; see the formula in `mtlpar.model.egnn.messages`.

    Attributes:
        at_receiver: a, (A, F).
        at_sender: s, (A, F).
        vectors: V, (A, D, 3).
        feature_weight: W_x, (F, K + 2 D).
        message_weight: W, (F, F).
        bias: w, (F,).
        filter_weight: W_f, (F, K).
        vector_weight: W_v above W_c, (C + D, F).
        radial: e, (n, K).
        direction: u, (n, 3).
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
    direction: Tensor


WEIGHTS = Operands._fields[3:8]


class Weights(NamedTuple):
    """A layer's weights as blocks want them, or gradients of them.

    Attributes:
        receiver: W_i, (F, D).
        feature: [W_j, W_e], (F, D + K).
        message: W, (F, F).
        bias: w, (F,).
        filter: W_f, (F, K), divided by the root of a typical count.
        push: W_v, (C, F).
        carry: W_c, (D, F).
    """

    receiver: Tensor
    feature: Tensor
    message: Tensor
    bias: Tensor
    filter: Tensor
    push: Tensor
    carry: Tensor

    @classmethod
    def of(cls, operands: Operands) -> Weights:
        """From the weights among the operands."""
        count, carried = operands.radial.shape[1], operands.vectors.shape[1]
        parts = [count, carried, carried]
        radial, receiver, sender = torch.split(operands.feature_weight, parts, dim=1)
        carry = operands.vector_weight[len(operands.vector_weight) - carried :]
        push = operands.vector_weight[: len(operands.vector_weight) - carried]
        return cls(
            receiver,
            torch.cat([sender, radial], dim=1),
            operands.message_weight,
            operands.bias,
            operands.filter_weight * _SCALE,
            push,
            carry,
        )

    def by_operand(self) -> list[Tensor]:
        """Gradients of the five weights among the operands from those of these."""
        parts = [len(self.carry), self.filter.shape[1]]
        sender, radial = torch.split(self.feature, parts, dim=1)
        return [
            torch.cat([radial, self.receiver, sender], dim=1),
            self.message,
            self.bias,
            self.filter * _SCALE,
            torch.cat([self.push, self.carry]),
        ]


class Tables(NamedTuple):
    """What atoms and edges bring to messages, or how it moves.

    Attributes:
        receiver: [W_i V_i, a_i], (A, 4, F).
        sender: s, (A, F).
        vectors: V, (3, A, D).
        radial: e, (n, K).
        direction: u, (n, 3).
    """

    receiver: Tensor
    sender: Tensor
    vectors: Tensor
    radial: Tensor
    direction: Tensor

    @classmethod
    def of(cls, weights: Weights, geometry: tuple[Tensor, Tensor], *atoms: Tensor) -> Tables:
        """From e and u, and from a, s and V of the atoms; see `Operands`."""
        at_receiver, at_sender, vectors = atoms
        vectors = axis_first(vectors)
        receiver = at_receiver.new_zeros(len(at_receiver), 4, at_receiver.shape[1])
        receiver[:, 3] = at_receiver
        if vectors.shape[2]:
            receiver[:, :3] = (vectors @ weights.receiver.T).transpose(0, 1)
        return cls(receiver, at_sender, vectors, *geometry)

    @property
    def sizes(self) -> Sizes:
        """Sizes of the messages."""
        return Sizes(self.sender.shape[1], self.vectors.shape[2], self.radial.shape[1])


def axis_first(vectors: Tensor) -> Tensor:
    """Vectors (A, C, 3) as (3, A, C)."""
    return vectors.permute(2, 0, 1).contiguous()


def axis_last(vectors: Tensor) -> Tensor:
    """The inverse of `axis_first`, as a view."""
    return vectors.permute(1, 2, 0)


def dot(first: Tensor, second: Tensor, out: Tensor) -> None:
    """Sums of products over the first axis, of length three."""
    torch.mul(first[0], second[0], out=out)
    add_dot(first, second, out, axes=(1, 2))


def add_dot(first: Tensor, second: Tensor, out: Tensor, axes: Sequence[int] = (0, 1, 2)) -> None:
    """Add products of axes."""
    for axis in axes:
        out.addcmul_(first[axis], second[axis])


class Left(NamedTuple):
    """What a layer leaves for the pass back, or how that moves.

    Attributes:
        total: [S_i, received_i], (A, 4, F).
        memory: Numbers of all `Messages`, of z alone, or none.
    """

    total: Tensor
    memory: Tensor


class Layer(NamedTuple):
    """A layer's messages along a table.

    Attributes:
        table: The edges.
        left: What the forward pass left.
        given: What atoms and edges bring.
        weights: The weights.
    """

    table: Table
    left: Left
    given: Tables
    weights: Weights

    @property
    def tensors(self) -> list[Tensor]:
        """All but the table, for autograd to keep."""
        return [*self.left, *self.given, *self.weights]

    @classmethod
    def of(cls, table: Table, tensors: Sequence[Tensor]) -> Layer:
        """The inverse; what follows the tensors is left alone."""
        ends = [len(kind._fields) for kind in (Left, Tables, Weights)]
        left, given, weights = (
            tensors[sum(ends[:index]) : sum(ends[: index + 1])] for index in range(3)
        )
        return cls(table, Left(*left), Tables(*given), Weights(*weights))

    @property
    def carried(self) -> int:
        """D, vectors that atoms come with."""
        return self.given.vectors.shape[2]

    def memory_of(self, memory: Tensor, block: Block, spare: int) -> tuple[Messages, bool, bool]:
        """Where the messages of a block are, whether they are there, and whether z is.

        Args:
            memory: As `Left` has it.
            block: The block.
            spare: Which of its spare buffers to take where not all is kept.
        """
        sizes, places = self.given.sizes, block.places
        count = sizes.numbers(block.edges)
        if len(memory) == sizes.numbers(len(self.given.radial)):
            first = sizes.numbers(places.start)
            return Messages(memory[first : first + count], block.rows, sizes), True, True
        messages = Messages(block.scratch.messages[spare][:count], block.rows, sizes)
        if len(memory):
            width = sizes.width
            messages.inner = memory[places.start * width : places.stop * width].view(-1, width)
        return messages, False, len(memory) > 0

    def messages(self, block: Block) -> Messages:
        """Messages of a block, computed again if they were not kept."""
        messages, are_there, has_inner = self.memory_of(self.left.memory, block, 0)
        if not are_there:
            self.send(block, messages, has_inner=has_inner)
        return messages

    def send(self, block: Block, messages: Messages, *, has_inner: bool) -> None:
        """Fill the messages of a block; see the module's formula."""
        given, weights = self.given, self.weights
        torch.index_select(given.sender, 0, block.sender, out=messages.hidden)
        messages.hidden_rows.baddbmm_(block.ends, given.receiver[block.atoms])
        if self.carried:
            vectors = given.vectors.flatten(0, 1)
            torch.index_select(vectors, 0, block.sender_vectors, out=messages.carried_flat)
            dot(messages.carried, block.unit, out=messages.along)
        radial = given.radial[block.places]
        messages.radial.copy_(radial)
        messages.hidden.addmm_(messages.features, weights.feature.T)
        if not has_inner:
            outer = block.scratch.wide[0]
            silu_into(messages.hidden, out=outer)
            torch.addmm(weights.bias, outer, weights.message.T, out=messages.inner)
        silu_into(messages.inner, out=messages.activated)
        torch.mm(radial, weights.filter.T, out=messages.weight)
        torch.mul(messages.activated, messages.weight, out=messages.message)
        if self.carried:
            torch.mm(messages.message, weights.carry.T, out=messages.lengths)


def sums(operands: Operands, table: Table, *, keep: bool) -> tuple[Layer, Tensor]:
    """The layer with what it leaves, and the sums of carried vectors, (3, A, D)."""
    weights = Weights.of(operands)
    given = Tables.of(weights, operands[8:], *operands[:3])
    carried, total = torch.empty_like(given.vectors), torch.empty_like(given.receiver)
    edges = len(given.radial)
    count = given.sizes.numbers(edges)
    if count > KEPT_NUMBERS:
        count = edges * given.sizes.width
    memory = total.new_empty(count if keep else 0)
    layer = Layer(table, Left(total, memory), given, weights)
    for block in table.blocks:
        messages, _, _ = layer.memory_of(memory, block, 0)
        layer.send(block, messages, has_inner=False)
        torch.bmm(block.ends.mT, messages.message_rows, out=total[block.atoms])
        if layer.carried:
            torch.mul(messages.lengths, messages.carried, out=block.scratch.products)
            torch.sum(block.scratch.products_rows, 2, out=carried[:, block.atoms])
    return layer, carried


def outputs(layer: Layer, total: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of messages (A, F) and of vectors (A, C, 3) from [S_i, received_i] and the rest."""
    pushed = total[:, :3] @ layer.weights.push.T
    if layer.carried:
        pushed.add_(carried.transpose(0, 1))
    return total[:, 3], pushed.mT


def by_atoms_and_weights(layer: Layer, pulls: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Gradients of atoms' terms, vectors and weights, by the chain rule on the formula.

    Args:
        layer: The layer.
        pulls: Gradients of the sums of messages, (A, F), and of vectors, (3, A, C).
    """
    grads, weights = Gradients.of(layer), layer.weights
    of_sums = through_push(weights, *pulls)
    grads.weights.push.add_(of_push(layer.left.total, pulls[1]))
    for block in layer.table.blocks:
        messages = layer.messages(block)
        grad, other, outer, *_ = block.scratch.wide
        grad_rows, other_rows, *_ = block.scratch.wide_rows
        torch.bmm(block.ends, of_sums[block.atoms], out=grad_rows)
        narrow = block.scratch.narrow[0]
        if layer.carried:
            dot_rows(block, messages, pulls[1], out=0)
            grads.weights.carry.addmm_(narrow.T, messages.message)
            grad.addmm_(narrow, weights.carry)
        torch.mul(messages.activated, grad, out=other)
        grads.weights.filter.addmm_(other.T, messages.radial)
        grad.mul_(messages.weight)
        silu_backward_into(grad, messages.inner, grad_input=grad)
        silu_into(messages.hidden, out=outer)
        grads.weights.message.addmm_(grad.T, outer)
        grads.weights.bias.add_(grad.sum(0))
        torch.mm(grad, weights.message, out=other)
        silu_backward_into(other, messages.hidden, grad_input=other)
        grads.weights.feature.addmm_(other.T, messages.features)
        torch.bmm(block.ends.mT, other_rows, out=grads.receiver[block.atoms])
        block.sender_sums.add(other, grads.sender)
        if layer.carried:
            torch.mm(other, weights.feature[:, : layer.carried], out=narrow)
            torch.mul(narrow, block.unit, out=block.scratch.products)
            grads.add_sent(block, messages, pulls[1])
    return grads.by_operand(layer)


class Gradients(NamedTuple):
    """Gradients that blocks add to.

    Attributes:
        receiver: Of [W_i V_i, a_i], (A, 4, F); each block writes its own.
        sender: Of s, (A, F).
        vectors: Of V, without what comes through W_i, (3, A, D).
        weights: Of the weights, without W_i.
    """

    receiver: Tensor
    sender: Tensor
    vectors: Tensor
    weights: Weights

    @classmethod
    def of(cls, layer: Layer) -> Gradients:
        """Zeros."""
        return cls(
            torch.empty_like(layer.given.receiver),
            torch.zeros_like(layer.given.sender),
            torch.zeros_like(layer.given.vectors),
            Weights(*(weight.new_zeros(weight.shape) for weight in layer.weights)),
        )

    def add_sent(self, block: Block, messages: Messages, pulls: Tensor) -> None:
        """Add gradients of V_j: the block's products and what comes through the pushes."""
        scratch = block.scratch
        scratch.products_rows.addcmul_(messages.lengths_rows, row_vectors(block, pulls))
        block.sender_sums.add_vectors(scratch.products_flat, self.vectors.flatten(0, 1))

    def by_atom(self, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of a, s and V."""
        vectors = self.vectors
        if layer.carried:
            vectors = vectors + self.receiver[:, :3].transpose(0, 1) @ layer.weights.receiver
        return self.receiver[:, 3], self.sender, axis_last(vectors)

    def by_operand(self, layer: Layer) -> list[Tensor]:
        """Gradients of the first eight operands."""
        if layer.carried:
            self.weights.receiver.add_(of_receiver_weight(self.receiver, layer.given.vectors))
        return [*self.by_atom(layer), *self.weights.by_operand()]


def of_receiver_weight(grad: Tensor, vectors: Tensor) -> Tensor:
    """Gradient of W_i, (F, D), from that of [W_i V_i, a_i], (A, 4, F), and V, (3, A, D)."""
    return grad[:, :3].transpose(0, 1).flatten(0, 1).T @ vectors.flatten(0, 1)


def through_push(weights: Weights, received: Tensor, pushed: Tensor) -> Tensor:
    """Gradients of [S_i, received_i], (A, 4, F), from those of the sums (A, F) and (3, A, C)."""
    of_sums = received.new_empty(len(received), 4, received.shape[1])
    of_sums[:, :3] = (pushed @ weights.push).transpose(0, 1)
    of_sums[:, 3] = received
    return of_sums


def of_push(total: Tensor, pushed: Tensor) -> Tensor:
    """Gradient of W_v, (C, F), from [S_i, received_i] and the gradients of vectors, (3, A, C)."""
    return pushed.flatten(0, 1).T @ total[:, :3].transpose(0, 1).flatten(0, 1)


def row_vectors(block: Block, vectors: Tensor) -> Tensor:
    """Vectors (3, A, C) of the receivers of a block, (3, a, 1, C)."""
    return vectors[:, block.atoms, None]


def dot_rows(block: Block, messages: Messages, vectors: Tensor, out: int) -> None:
    """Products of V_j and vectors of receivers (3, A, C), into one of the narrow buffers.

    With the gradients of pushed vectors that is the gradient of W_c m, (n, D).
    """
    into = block.scratch.narrow_rows[out]
    dot(messages.carried_rows, row_vectors(block, vectors), out=into)
