"""What an EGNN computes along a table of edges, written once for each shape of it.

The formula is that of `mtlpar.model.egnn.inference`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final

import torch
from torch import Tensor, nn

from mtlpar.model.egnn.edge_blocks import Block, Messages
from mtlpar.model.egnn.edge_table import EdgeTable, Rows
from mtlpar.model.egnn.plain_weights import LayerWeights, PlainWeights
from mtlpar.model.egnn.program import Do, Program, at_once

# Beyond this, messages are computed again in the backward pass instead of being kept.
_KEPT_BYTES: Final = 2**28

Reserve = Callable[[torch.dtype, int], Tensor]

_silu_into = torch.ops.aten.silu.out
_silu_backward_into = torch.ops.aten.silu_backward.grad_input
_norm_backward = torch.ops.aten.native_layer_norm_backward.default


class _Norm:
    """A `torch.nn.LayerNorm` of values that stay in place, and the gradient by them."""

    def __init__(self, norm: nn.LayerNorm, values: Tensor) -> None:
        self._shape, self._epsilon = list(norm.normalized_shape), norm.eps
        self._weights = norm.weight.detach(), norm.bias.detach()
        self._values = values

    def normalise(self, normalised: Tensor) -> None:
        """Write the normalised values, (A, F)."""
        found, self._mean, self._rstd = torch.native_layer_norm(
            self._values, self._shape, *self._weights, self._epsilon
        )
        normalised.copy_(found)

    def add_gradient(self, grad: Tensor, sums: Tensor) -> None:
        """Add the gradient by the values, given that by the normalised ones."""
        around = self._values, self._shape, self._mean, self._rstd, *self._weights
        sums.add_(_norm_backward(grad, *around, [True, False, False])[0])


class _Passed:
    """What a layer leaves for the backward pass, by atom.

    Attributes:
        norm: Of the scalars before the layer.
        at_receiver: [W_i V_i, a_i], (A, 4, F).
        at_sender: s, (A, F).
        mixed: Mixtures U V and W V of the vectors after it, (3, A, 2 C).
        hidden: What the activation of the update is applied to, (A, F).
    """

    def __init__(self, layer: LayerWeights, scalars: Tensor, channels: int) -> None:
        atoms, width = scalars.shape
        self.norm = _Norm(layer.norm, scalars)
        self.at_receiver = scalars.new_zeros(atoms, 4, width)
        self.at_sender, self.hidden = (torch.empty_like(scalars) for _ in range(2))
        self.mixed = scalars.new_empty(3, atoms, 2 * channels)


class _Gradients:
    """Memory of the backward pass.

    Attributes:
        scalars: (A, F), of those before the layer that comes next.
        vectors: (3, A, C), of those after it.
        before: (3, A, C), of those before it.
        at_receiver: Of [W_i V_i, a_i], (A, 4, F).
        at_sender: Of s, (A, F).
        crossed: Of the mixtures of vectors, (3, A, 2 C).
        unit: Of the edges' unit vectors, (3, n).
        ends: Of the same, by what is linear in them, (n, 3): (a, 3, M) for each block.
        radial: Of the radial functions, (n, K).
    """

    def __init__(self, scalars: Tensor, channels: int, table: EdgeTable) -> None:
        atoms, width = scalars.shape
        self.scalars, self.at_sender = (torch.empty_like(scalars) for _ in range(2))
        self.vectors, self.before = (scalars.new_empty(3, atoms, channels) for _ in range(2))
        self.at_receiver = scalars.new_empty(atoms, 4, width)
        self.crossed = scalars.new_empty(3, atoms, 2 * channels)
        self.unit, self.radial = torch.empty_like(table.unit), torch.empty_like(table.radial)
        self.ends = scalars.new_empty(len(table.sender), 3)

    def clear(self) -> None:
        """Start from zero."""
        for grad in (self.scalars, self.vectors, self.unit, self.ends, self.radial):
            grad.zero_()


class Steps:
    """Programs for structures whose table of edges has one shape, and their memory.

    Everything of atoms lies in the order of the table's rows.

    Attributes:
        table: The edges.
        scalars: Before each layer and after the last, (A, F).
        vectors: The same, (3, A, C).
        energies: (A, 1).
        last: What they are linear in, (A, H).
        normalised: The last scalars, normalised, (A, F).
    """

    def __init__(
        self, weights: PlainWeights, rows: Rows, like: Tensor, *, reserve: Reserve, goes_back: bool
    ) -> None:
        """Allocate.

        Args:
            weights: The weights.
            rows: The table's blocks.
            like: (A, F).
            reserve: Gives memory for what edges leave, a type and a count of numbers.
            goes_back: Whether `backward` will be called.
        """
        self._weights, channels, layers = weights, weights.channels, weights.layers
        self.table = EdgeTable(rows, weights.basis, like)
        atoms, width = like.shape
        self.scalars = [torch.empty_like(like) for _ in range(len(layers) + 1)]
        self.vectors = [like.new_zeros(3, atoms, channels) for _ in range(len(layers) + 1)]
        self._passed = [
            _Passed(layer, scalars, channels)
            for layer, scalars in zip(layers, self.scalars, strict=False)
        ]
        # Scratch: [h, received, inner products] and their gradient, [S, received] and theirs.
        self._inputs = like.new_empty(atoms, 2 * width + channels)
        self._sums = like.new_empty(atoms, 4, width)
        self._activated = torch.empty_like(like)
        self._wide = like.new_empty(3, atoms, width)
        self._narrow = like.new_empty(atoms, 4, channels)
        self._carried = like.new_empty(3, atoms, channels)
        self._norm, self.normalised = _Norm(weights.norm, self.scalars[-1]), torch.empty_like(like)
        self._blocks = self._divide(like, reserve, goes_back=goes_back)

    def _divide(self, like: Tensor, reserve: Reserve, *, goes_back: bool) -> list[Block]:
        rows, width = self.table.rows, like.shape[1]
        channels, layers = self._weights.channels, len(self._weights.layers)
        numbers = [Messages.numbers(edges, width, channels) for edges in rows.edges.tolist()]
        kept = layers * sum(numbers) * like.element_size()
        self._keeps = goes_back and kept <= _KEPT_BYTES
        of_edge = 2 * width + 5 * channels + self.table.radial.shape[1] + 3
        sizes = [int(rows.edges.max()) * of_edge]
        sizes.append(layers * sum(numbers) if self._keeps else max(numbers))
        scratch, memory = torch.split(reserve(like.dtype, sum(sizes)), sizes)
        blocks = []
        atom = edge = 0
        shapes = zip(rows.atoms.tolist(), rows.columns.tolist(), numbers, strict=True)
        for count, columns, size in shapes:
            shape = (count, columns, width, channels)
            if self._keeps:
                mine, memory = memory[: layers * size], memory[layers * size :]
                messages = [Messages(part, shape) for part in torch.split(mine, size)]
            else:
                messages = [Messages(memory[:size], shape)] * layers
            atoms, edges = slice(atom, atom + count), slice(edge, edge + count * columns)
            blocks.append(Block(atoms, edges, self.table, scratch, messages))
            atom, edge = atoms.stop, edges.stop
        return blocks

    def lay_out(self, z: Tensor, edge_index: Tensor, counts: Tensor, row: Tensor) -> None:
        """Give edges their places; see `EdgeTable.lay_out`."""
        self.table.lay_out(z, edge_index, counts, row)
        for block in self._blocks:
            block.find_senders()

    def forward(self) -> None:
        """From the first scalars to the last, and to the vectors around each layer."""
        if self._is_short:
            self._forward_program.run()
        else:
            self._forward(at_once)

    def backward(self) -> None:
        """From the last scalars to energies and gradients."""
        if self._is_short:
            self._backward_program.run()
        else:
            self._backward(at_once)

    def gradient(self) -> Tensor:
        """Gradient of the edge vectors, (3, E)."""
        grads = self._gradients
        ends = [block.of_ends(grads.ends).transpose(0, 1).flatten(1) for block in self._blocks]
        unit = grads.unit + torch.cat(ends, dim=1)
        return self.table.gradient(unit, grads.radial)

    @cached_property
    def _forward_program(self) -> Program:
        return Program.of(self._forward)

    @cached_property
    def _backward_program(self) -> Program:
        return Program.of(self._backward)

    @cached_property
    def _gradients(self) -> _Gradients:
        return _Gradients(self.scalars[0], self._weights.channels, self.table)

    @property
    def _is_short(self) -> bool:
        """Whether operations are few enough to be remembered."""
        return len(self._blocks) == 1

    def _forward(self, do: Do) -> None:
        for index, layer in enumerate(self._weights.layers):
            left, inputs = self._passed[index], self._inputs
            width = self.scalars[index].shape[1]
            h, received, inner = inputs.tensor_split((width, 2 * width), dim=1)
            do(left.norm.normalise, h)
            self._exchange(do, index, h)
            do(received.copy_, self._sums[:, 3])
            mixed = left.mixed
            do(torch.mm, self.vectors[index + 1].flatten(0, 1), layer.mix, out=mixed.flatten(0, 1))
            first, second = mixed.chunk(2, dim=2)
            _dot(do, first, second, out=inner)
            do(torch.addmm, layer.update_bias, inputs, layer.update, out=left.hidden)
            do(_silu_into, left.hidden, out=self._activated)
            after, bias = self.scalars[index + 1], layer.update_out_bias
            do(torch.addmm, bias, self._activated, layer.update_out, out=after)
            do(after.add_, self.scalars[index])
        do(self._norm.normalise, self.normalised)

    def _exchange(self, do: Do, index: int, h: Tensor) -> None:
        """Send the messages of a layer; sums and vectors after it."""
        layer, left = self._weights.layers[index], self._passed[index]
        before, after = self.vectors[index : index + 2]
        do(torch.addmm, layer.receiver_bias, h, layer.receiver, out=left.at_receiver[:, 3])
        if layer.carries:
            wide = self._wide
            do(torch.mm, before.flatten(0, 1), layer.along_receiver, out=wide.flatten(0, 1))
            do(left.at_receiver[:, :3].copy_, wide.transpose(0, 1))
        do(torch.mm, h, layer.sender, out=left.at_sender)
        for block in self._blocks:
            messages = block.messages[index]
            _send(do, layer, block, messages, left, before)
            _sum_up(do, layer, block, messages, self._sums, self._carried)
        do(torch.mm, self._sums.flatten(0, 1), layer.push, out=self._narrow.flatten(0, 1))
        do(torch.add, before, self._narrow[:, :3].transpose(0, 1), out=after)
        if layer.carries:
            do(after.add_, self._carried)

    def _backward(self, do: Do) -> None:
        grads = self._gradients
        do(grads.clear)
        self._decode(do, grads)
        for index in reversed(range(len(self._weights.layers))):
            of_h = self._through_update(do, index, grads)
            self._back_along_edges(do, index, grads)
            # What the atoms are does not depend on where they are.
            if index > 0:
                self._back_to_atoms(do, index, grads, of_h)

    def _decode(self, do: Do, grads: _Gradients) -> None:
        """Energies, and the gradient of their sum by the last scalars."""
        weights, values, hidden = self._weights, self.normalised, []
        for weight, bias in weights.head:
            hidden.append(values.new_empty(len(values), weight.shape[1]))
            do(torch.addmm, bias, values, weight, out=hidden[-1])
            values = torch.empty_like(hidden[-1])
            do(_silu_into, hidden[-1], out=values)
        self.last, self.energies = values, values.new_empty(len(values), 1)
        do(torch.addmm, weights.last_bias, values, weights.last, out=self.energies)
        grad = weights.last.T.expand_as(values)
        for (weight, _), before in zip(reversed(weights.head), reversed(hidden), strict=True):
            through = torch.empty_like(before)
            do(_silu_backward_into, grad, before, grad_input=through)
            grad = before.new_empty(len(before), weight.shape[0])
            do(torch.mm, through, weight.T, out=grad)
        do(self._norm.add_gradient, grad, grads.scalars)

    def _through_update(self, do: Do, index: int, grads: _Gradients) -> Tensor:
        """Gradients of what the update of a layer is given; that of h is returned, (A, F)."""
        layer, left = self._weights.layers[index], self._passed[index]
        width = grads.scalars.shape[1]
        do(torch.mm, grads.scalars, layer.update_out.T, out=self._activated)
        do(_silu_backward_into, self._activated, left.hidden, grad_input=self._activated)
        do(torch.mm, self._activated, layer.update.T, out=self._inputs)
        of_h, received, inner = self._inputs.tensor_split((width, 2 * width), dim=1)
        mixtures, crossed = left.mixed.chunk(2, dim=2), grads.crossed.chunk(2, dim=2)
        for mixture, other in zip(mixtures, reversed(crossed), strict=True):
            do(torch.mul, mixture, inner, out=other)
        vectors = grads.vectors.flatten(0, 1)
        do(vectors.addmm_, grads.crossed.flatten(0, 1), layer.mix.T)
        do(torch.mm, vectors, layer.push.T, out=self._wide.flatten(0, 1))
        do(self._sums[:, :3].copy_, self._wide.transpose(0, 1))
        do(self._sums[:, 3].copy_, received)
        return of_h

    def _back_along_edges(self, do: Do, index: int, grads: _Gradients) -> None:
        layer, left = self._weights.layers[index], self._passed[index]
        do(grads.at_sender.zero_)
        do(grads.before.copy_, grads.vectors)
        for block in self._blocks:
            messages = block.messages[index]
            if not self._keeps:
                _send(do, layer, block, messages, left, self.vectors[index])
            _message_back(do, layer, block, messages, self._sums, grads)
            if layer.carries:
                _ends_back(do, layer, block, messages, left, grads)
            else:
                do(block.of_edges(grads.radial).addmm_, block.other, layer.radial.T)

    def _back_to_atoms(self, do: Do, index: int, grads: _Gradients, of_h: Tensor) -> None:
        """Gradients of what a layer is given, from those that the blocks have summed."""
        layer, receiver = self._weights.layers[index], grads.at_receiver
        along = self._narrow
        do(torch.mm, receiver.flatten(0, 1), layer.along_receiver.T, out=along.flatten(0, 1))
        do(torch.add, grads.before, along[:, :3].transpose(0, 1), out=grads.vectors)
        do(of_h.addmm_, receiver[:, 3], layer.receiver.T)
        do(of_h.addmm_, grads.at_sender, layer.sender.T)
        do(self._passed[index].norm.add_gradient, of_h, grads.scalars)


def _dot(do: Do, first: Tensor, second: Tensor, out: Tensor) -> None:
    """Sum of products over the first axis, of length three."""
    do(torch.mul, first[0], second[0], out=out)
    for axis in (1, 2):
        do(out.addcmul_, first[axis], second[axis])


def _send(
    do: Do,
    layer: LayerWeights,
    block: Block,
    messages: Messages,
    left: _Passed,
    vectors: Tensor,
) -> None:
    """Fill the messages of a block; see the module's formula."""
    do(torch.index_select, left.at_sender, 0, block.sender, out=messages.hidden)
    do(messages.hidden_rows.baddbmm_, block.ends, block.of(left.at_receiver))
    if layer.carries:
        carried = messages.carried_flat
        do(torch.index_select, vectors.flatten(0, 1), 0, block.senders, out=carried)
        _dot(do, messages.carried, block.unit, out=block.along)
        do(block.radial_again.copy_, block.radial)
        do(messages.hidden.addmm_, block.features, layer.features)
    else:
        do(messages.hidden.addmm_, block.radial, layer.radial)
    do(_silu_into, messages.hidden, out=block.wide)
    do(torch.addmm, layer.message_bias, block.wide, layer.message, out=messages.inner)
    do(_silu_into, messages.inner, out=messages.activated)
    do(torch.mm, block.radial, layer.filter, out=messages.weight)
    do(torch.mul, messages.activated, messages.weight, out=messages.message)
    if layer.carries:
        do(torch.mm, messages.message, layer.carry, out=messages.lengths)


def _sum_up(
    do: Do,
    layer: LayerWeights,
    block: Block,
    messages: Messages,
    sums: Tensor,
    carried: Tensor,
) -> None:
    """Sum messages to [S_i, received_i], and the vectors that senders pass on."""
    do(torch.bmm, block.ends_by_column, messages.message_rows, out=block.of(sums))
    if layer.carries:
        do(torch.mul, messages.lengths, messages.carried, out=block.products)
        do(torch.sum, block.products_rows, 2, out=block.of_vectors(carried))


def _message_back(
    do: Do,
    layer: LayerWeights,
    block: Block,
    messages: Messages,
    sums: Tensor,
    grads: _Gradients,
) -> None:
    """From gradients of the sums to that of p, left in the block's `other`.

    The messages are not the same after that.
    """
    sums, grad = block.of(sums), block.wide
    ends, radial = block.of_ends(grads.ends), block.of_edges(grads.radial)
    do(ends.baddbmm_, sums[:, :3], messages.message_rows.transpose(1, 2))
    do(torch.bmm, block.ends, sums, out=block.wide_rows)
    if layer.carries:
        _dot(do, messages.carried_rows, _by_row(block, grads), out=block.narrow_rows)
        do(grad.addmm_, block.narrow, layer.carry.T)
    do(messages.activated.mul_, grad)
    do(radial.addmm_, messages.activated, layer.filter.T)
    do(grad.mul_, messages.weight)
    do(_silu_backward_into, grad, messages.inner, grad_input=grad)
    do(torch.mm, grad, layer.message.T, out=block.other)
    do(_silu_backward_into, block.other, messages.hidden, grad_input=block.other)


def _ends_back(
    do: Do,
    layer: LayerWeights,
    block: Block,
    messages: Messages,
    left: _Passed,
    grads: _Gradients,
) -> None:
    """From the gradient of p to those of the edges and of what both atoms have."""
    do(torch.mm, block.other, layer.features.T, out=block.features)
    do(block.of_edges(grads.radial).add_, block.radial_again)
    weights = block.of(left.at_receiver)[:, :3]
    do(block.of_ends(grads.ends).baddbmm_, weights, block.other_rows.transpose(1, 2))
    do(torch.bmm, block.ends_by_column, block.other_rows, out=block.of(grads.at_receiver))
    do(block.add_to_senders, block.other, grads.at_sender)
    do(torch.mul, block.along, block.unit, out=block.products)
    do(block.products_rows.addcmul_, messages.lengths_rows, _by_row(block, grads))
    do(block.add_vectors_to_senders, block.products_flat, grads.before.flatten(0, 1))
    do(messages.carried.mul_, block.along)
    # A product with ones takes half of the time of a sum over so few.
    ones = messages.lengths.new_ones(messages.lengths.shape[1])
    do(torch.mv, messages.carried_flat, ones, out=block.lengths)
    do(block.of_axes(grads.unit).add_, block.lengths.view(3, -1))


def _by_row(block: Block, grads: _Gradients) -> Tensor:
    """Gradients of the receivers' vectors, (3, a, 1, C)."""
    return block.of_vectors(grads.vectors)[:, :, None]
