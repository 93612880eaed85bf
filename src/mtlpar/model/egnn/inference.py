"""The EGNN for one structure, and the gradient of its energy by the edge vectors, written out.

In steps of a simulation autograd costs as much as the numbers do, and half of the rest goes into
memory that each operation allocates. Here the edges that an atom receives fill a row of a table
with A rows and M columns, so that sums over neighbours are products of small matrices, and results
go to buffers that stay from step to step. A place that no neighbour takes holds an edge as long as
the cutoff, whose message is zero.

With W_x = [W_e, W_i, W_j] the formula of `mtlpar.model.egnn.messages` reads, for edges to atom i,

    p_ij = [u_ij, 1] . [W_i V_i, a_i] + s_j + W_j (V_j . u_ij) + W_e e_ij,
    z_ij = W silu(p_ij) + w,   m_ij = silu(z_ij) * (W_f e_ij),
    [S_i, received_i] = sum_j [u_ij, 1] m_ij,   pushed_i = W_v S_i + sum_j (W_c m_ij) V_j:

what is linear in u_ij is computed per atom. The divisor of the sums is part of W_f. The backward
pass is the chain rule on this. Vectors have their axis first here, (3, A, C), and n = a M edges
that belong to a atoms are computed together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mtlpar.model.egnn.encoder import EgnnEncoder, EgnnLayer
from mtlpar.model.encoder import AtomFeatures
from mtlpar.model.geometry import TYPICAL_NEIGHBORS, RadialBasis
from mtlpar.model.heads import Branch

# Buffers of so many edges stay in the last-level cache of a CPU.
_BLOCK_EDGES: Final = 4096
# Beyond this, messages are computed again in the backward pass instead of being kept.
_KEPT_BYTES: Final = 2**28

_silu_into = torch.ops.aten.silu.out
_silu_backward = torch.ops.aten.silu_backward.default
_silu_backward_into = torch.ops.aten.silu_backward.grad_input
_norm_backward = torch.ops.aten.native_layer_norm_backward.default


class _Table:
    """Edges of one structure by receiver: A rows of M columns, n = A M.

    Attributes:
        columns: M.
        place: (E,) places of the edges in the table.
        sender: (n,) atoms that send; anything where there is no edge.
        vector: (3, n) from receiver to sender in Å.
        sizes: (n,) sums of the atoms' radii in Å.
    """

    def __init__(
        self, z: Tensor, edge_index: Tensor, vector: Tensor, basis: RadialBasis, columns: int
    ) -> None:
        """Lay out edges as `EgnnInference.features` has them, in at least so many columns."""
        (sender, receiver), atoms = edge_index, len(z)
        counts = torch.bincount(receiver, minlength=atoms)
        self.columns = columns = max(columns, int(counts.max()), 1)
        atom = torch.arange(atoms, device=z.device)
        before = atom * columns - counts.cumsum(0) + counts
        edge = torch.arange(len(receiver), device=z.device)
        self.place = edge + before.index_select(0, receiver)
        self.sender = sender.new_zeros(atoms * columns).index_copy_(0, self.place, sender)
        self.vector = vector.new_zeros(3, atoms * columns)
        self.vector[0] = basis.cutoff
        self.vector.index_copy_(1, self.place, vector)
        radii = basis.radii_angstrom.to(vector.dtype).index_select(0, z)
        senders = radii.index_select(0, self.sender).view(atoms, columns)
        self.sizes = (radii[:, None] + senders).view(-1)


class _Weights:
    """Weights of a layer, (inputs, outputs) each, as products from left to right want them."""

    def __init__(self, layer: EgnnLayer) -> None:
        count = layer.filter.in_features
        edge, vector = layer.features_in.weight.detach().T, layer.vector_out.weight.detach().T
        channels = vector.shape[1] - layer.vectors_in
        self.carries = layer.vectors_in > 0
        self.norm = _Norm(layer.norm)
        self.receiver, self.receiver_bias = _weight_and_bias(layer.receiver_in)
        self.sender = layer.sender_in.weight.detach().T
        self.radial = edge[:count]
        self.along_receiver, self.along_sender = edge[count:].tensor_split(2)
        self.message, self.message_bias = _weight_and_bias(layer.message)
        self.filter = layer.filter.weight.detach().T / math.sqrt(TYPICAL_NEIGHBORS)
        self.push, self.carry = vector[:, :channels], vector[:, channels:]
        self.mix = layer.inner_products.mix.weight.detach().T
        self.update, self.update_bias = _weight_and_bias(layer.update[0])
        self.update_out, self.update_out_bias = _weight_and_bias(layer.update[2])


def _weight_and_bias(linear: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(linear, nn.Linear)
    return linear.weight.detach().T, linear.bias.detach()


class _Norm:
    """A `torch.nn.LayerNorm` and the gradient of what it is given."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.shape, self.epsilon = list(norm.normalized_shape), norm.eps
        self.weight, self.bias = norm.weight.detach(), norm.bias.detach()

    def __call__(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised values (A, F), with what `backward` wants to know beside them."""
        return torch.native_layer_norm(values, self.shape, self.weight, self.bias, self.epsilon)

    def backward(self, grad: Tensor, values: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        """Gradient of the values from that of the normalised ones."""
        only_values = [True, False, False]
        found: Tensor = _norm_backward(
            grad, values, self.shape, mean, rstd, self.weight, self.bias, only_values
        )[0]
        return found


class _Messages:
    """What the messages of one block and layer leave for the backward pass; see the module.

    Attributes:
        hidden: p, (n, F); ``hidden_rows`` are the same numbers as (a, M, F).
        inner: z, (n, F).
        activated: silu(z), (n, F).
        weight: W_f e, (n, F).
        lengths: W_c m, (n, C).
        carried: V_j, (3, n, C); ``carried_flat`` the same as (3 n, C).
    """

    def __init__(self, like: Tensor, atoms: int, columns: int, width: int, channels: int) -> None:
        edges = atoms * columns
        self.hidden, self.inner, self.activated, self.weight = (
            like.new_empty(edges, width) for _ in range(4)
        )
        self.hidden_rows = self.hidden.view(atoms, columns, width)
        self.lengths = like.new_empty(edges, channels)
        self.carried_flat = like.new_empty(3 * edges, channels)
        self.carried = self.carried_flat.view(3, edges, channels)


class _Block:
    """Consecutive atoms whose edges are computed together, and memory to do so.

    Attributes:
        messages: Of each layer; all the same if they are computed again.
        wide: (n, F) of scratch, as ``other``; ``..._rows`` are the same numbers as (a, M, F).
        narrow: (n, C) of scratch.
        products: (3, n, C) of scratch; also as (3 n, C) and (3, a, M, C).
        pulls: (3, n, C), gradients of the receivers' vectors.
        directions: (3, n, C), unit vectors repeated for the channels.
    """

    def __init__(
        self, atoms: slice, shape: tuple[int, int], memory: Tensor, messages: list[_Messages]
    ) -> None:
        """Divide memory.

        Args:
            atoms: Which atoms.
            shape: A and M of the whole table.
            memory: Numbers for the scratch, of which other blocks may have the same.
            messages: Of each layer.
        """
        self.messages = messages
        count, columns = atoms.stop - atoms.start, shape[1]
        edges, (_, width) = count * columns, messages[0].hidden.shape
        channels = messages[0].lengths.shape[1]
        self._atoms, self._is_whole = atoms, count == shape[0]
        self._edges = slice(atoms.start * columns, atoms.stop * columns)
        numbers = [edges * size for size in (width, width, channels, *[3 * channels] * 3)]
        pieces = torch.split(memory[: sum(numbers)], numbers)
        self.wide, self.other = (piece.view(edges, width) for piece in pieces[:2])
        self.wide_rows, self.other_rows = (
            piece.view(count, columns, width) for piece in pieces[:2]
        )
        self.narrow = pieces[2].view(edges, channels)
        self.products, self.pulls, self.directions = (
            piece.view(3, edges, channels) for piece in pieces[3:]
        )
        self.products_flat = pieces[3].view(3 * edges, channels)
        self.products_rows = pieces[3].view(3, count, columns, channels)
        self.receiver = torch.arange(atoms.start, atoms.stop, device=memory.device)
        self.receiver = self.receiver.repeat_interleave(columns)

    def of(self, atom_values: Tensor) -> Tensor:
        """What belongs to the block of (A, ...)."""
        return atom_values if self._is_whole else atom_values[self._atoms]

    def of_vectors(self, vectors: Tensor) -> Tensor:
        """What belongs to the block of (3, A, C)."""
        return vectors if self._is_whole else vectors[:, self._atoms]

    def add_to(self, grads: _EdgeGrads) -> None:
        """Say where gradients of the edges are summed."""
        self.grad_radial, self.grad_unit = grads.radial[:, self._edges], grads.unit[:, self._edges]
        self.grad_ends = grads.ends[self._atoms]

    def point_at(self, geometry: _EdgeGeometry) -> None:
        """Look at the edges of this step."""
        atoms = len(geometry.ends)
        self.sender = geometry.sender[self._edges]
        self.senders = torch.cat([self.sender + axis * atoms for axis in range(3)])
        self.ends = self.of(geometry.ends)
        self.ends_by_column = self.ends.transpose(1, 2)
        self.radial = geometry.radial[:, self._edges].T
        self._unit = geometry.unit[:, self._edges, None]

    def repeat_directions(self) -> None:
        """Fill `directions`, over which another block with the same memory may have written."""
        self.directions.copy_(self._unit)


class _EdgeGeometry:
    """What all layers share of one step.

    Attributes:
        sender: (n,) atoms that send.
        unit: (3, n) unit vectors.
        ends: (A, M, 4) unit vectors and ones.
        radial: (K, n) radial functions.
    """

    def __init__(self, table: _Table, basis: RadialBasis) -> None:
        self._distance = (table.vector * table.vector).sum(dim=0).sqrt_()
        self.sender = table.sender
        self.unit = table.vector / self._distance
        ones = torch.ones_like(self.unit[:1])
        self.ends = torch.cat([self.unit, ones]).T.contiguous().view(-1, table.columns, 4)
        self.radial, self._slopes = basis.with_slopes(self._distance, table.sizes)

    def gradient(self, grads: _EdgeGrads) -> Tensor:
        """Gradient of the edge vectors, (3, n)."""
        unit = grads.unit + grads.ends.flatten(0, 1).T
        along = (self.unit * unit).sum(dim=0)
        length = (grads.radial * self._slopes).sum(dim=0)
        return unit / self._distance + self.unit * (length - along / self._distance)


class _EdgeGrads(NamedTuple):
    """Gradients of what `_EdgeGeometry` has.

    Attributes:
        radial: Of the radial functions, (K, n).
        ends: Of the unit vectors, by what is linear in them, (A, M, 3).
        unit: Of the unit vectors, by the rest, (3, n).
    """

    radial: Tensor
    ends: Tensor
    unit: Tensor

    @classmethod
    def like(cls, geometry: _EdgeGeometry) -> _EdgeGrads:
        """Memory for them."""
        ends = geometry.ends[:, :, :3]
        return cls(*(torch.empty_like(one) for one in (geometry.radial, ends, geometry.unit)))

    def clear(self) -> None:
        """Start from zero."""
        for one in self:
            one.zero_()


class _Passed(NamedTuple):
    """What a layer leaves for the backward pass, by atom.

    Attributes:
        scalars: Before the layer, (A, F).
        mean: Of their features, (A, 1).
        rstd: Inverse of their deviation, (A, 1).
        at_receiver: [W_i V_i, a_i], (A, 4, F).
        at_sender: s, (A, F).
        vectors: Before the layer, (3, A, C).
        mixed: Mixtures U V and W V of the vectors after it, (3, A, 2 C).
        hidden: What the activation of the update is applied to, (A, F).
    """

    scalars: Tensor
    mean: Tensor
    rstd: Tensor
    at_receiver: Tensor
    at_sender: Tensor
    vectors: Tensor
    mixed: Tensor
    hidden: Tensor


class _Grads(NamedTuple):
    """Gradients that blocks read and add to.

    Attributes:
        sums: Of [S_i, received_i], (A, 4, F).
        vectors: Of the vectors after the layer, (3, A, C).
        at_receiver: Of [W_i V_i, a_i], (A, 4, F).
        at_sender: Of s, (A, F).
        before: Of the vectors before the layer, (3 A, C).
    """

    sums: Tensor
    vectors: Tensor
    at_receiver: Tensor
    at_sender: Tensor
    before: Tensor


class EgnnInference:
    """Encoder and one branch, ready for one structure after another.

    It has the weights of the moment when it is made.
    """

    def __init__(self, encoder: EgnnEncoder, branch: Branch) -> None:
        """Take the weights of an encoder and of a branch."""
        self._encoder, self._scale = encoder, branch.energy_scale
        self._layers = [_Weights(layer) for layer in encoder.layers if isinstance(layer, EgnnLayer)]
        self._norm = _Norm(encoder.norm)
        self._head = [_weight_and_bias(part) for part in branch.energy if hasattr(part, "weight")]
        self._shape = (0, 0)
        self._blocks: list[_Block] = []
        self._keeps = True

    @torch.inference_mode()
    def features(
        self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> AtomFeatures:
        """What the encoder says about the atoms.

        Args:
            scalars: (A, F) what the atoms are.
            z: (A,) atomic numbers.
            edge_index: (2, E) senders and receivers, sorted by receiver.
            vector: (3, E) edge vectors in Å from receiver to sender.
        """
        self._lay_out(z, edge_index, vector)
        scalars, vectors, _ = self._forward(scalars)
        added = [after - before for before, after in pairwise(vectors)]
        return AtomFeatures(self._norm(scalars)[0], torch.cat(added, dim=2).permute(1, 2, 0))

    @torch.inference_mode()
    def energies_and_gradient(
        self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Energies of the atoms, and the gradient of their sum by the edge vectors.

        Args:
            scalars: As for `features`, like the other arguments.
            z: As there.
            edge_index: As there.
            vector: As there.

        Returns:
            Energies without references in eV, (A,), derivatives in eV/Å, (3, E), and what the
            energies are linear in, (A, H).
        """
        table, geometry = self._lay_out(z, edge_index, vector)
        scalars, _, passed = self._forward(scalars)
        energies, grad, last = self._decode(scalars)
        self._edge_grads.clear()
        self._backward(grad, passed)
        gradient = geometry.gradient(self._edge_grads).index_select(1, table.place)
        return energies, gradient, last

    def _lay_out(
        self, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> tuple[_Table, _EdgeGeometry]:
        """Divide the edges into blocks, with the memory of the step before if it fits."""
        atoms, columns = self._shape
        basis = self._encoder.basis
        table = _Table(z, edge_index, vector, basis, columns if atoms == len(z) else 0)
        geometry = _EdgeGeometry(table, basis)
        if self._shape != (len(z), table.columns):
            self._shape = (len(z), table.columns)
            self._edge_grads = _EdgeGrads.like(geometry)
            self._divide(geometry.unit)
        for block in self._blocks:
            block.point_at(geometry)
            block.repeat_directions()
        return table, geometry

    def _divide(self, like: Tensor) -> None:
        atoms, columns = self._shape
        width, channels = self._encoder.settings.width, self._encoder.settings.vector_channels
        rows = min(atoms, max(1, _BLOCK_EDGES // columns))
        numbers = len(self._layers) * atoms * columns * 4 * (width + channels)
        self._keeps = numbers * like.element_size() <= _KEPT_BYTES
        scratch = like.new_empty(rows * columns * (2 * width + 10 * channels))
        self._blocks = []
        for start in range(0, atoms, rows):
            size = (min(rows, atoms - start), columns, width, channels)
            if self._keeps:
                messages = [_Messages(like, *size) for _ in self._layers]
            elif size[0] < rows or not start:
                messages = [_Messages(like, *size)] * len(self._layers)
            place = slice(start, start + size[0])
            block = _Block(place, self._shape, scratch, messages)
            block.add_to(self._edge_grads)
            self._blocks.append(block)

    def _visit(self) -> Iterator[_Block]:
        for block in self._blocks:
            if len(self._blocks) > 1:
                block.repeat_directions()
            yield block

    def _forward(self, scalars: Tensor) -> tuple[Tensor, list[Tensor], list[_Passed]]:
        """Scalars after the last layer, vectors around each, and what the layers leave."""
        atoms, width = scalars.shape
        vectors = [scalars.new_zeros(3, atoms, self._encoder.settings.vector_channels)]
        passed = []
        for index, layer in enumerate(self._layers):
            h, mean, rstd = layer.norm(scalars)
            at_receiver = scalars.new_zeros(atoms, 4, width)
            at_receiver[:, 3] = torch.addmm(layer.receiver_bias, h, layer.receiver)
            if layer.carries:
                at_receiver[:, :3] = _apply(vectors[-1], layer.along_receiver).transpose(0, 1)
            at_sender = h @ layer.sender
            sums = torch.empty_like(at_receiver)
            carried = torch.zeros_like(vectors[-1])
            for block in self._visit():
                messages = block.messages[index]
                _send(layer, block, messages, at_receiver, at_sender, vectors[-1])
                _sum_up(layer, block, messages, sums, carried)
            pushed = carried.add_(_apply(sums, layer.push)[:, :3].transpose(0, 1))
            vectors.append(vectors[-1] + pushed)
            mixed = _apply(vectors[-1], layer.mix)
            left, right = mixed.chunk(2, dim=2)
            inputs = torch.cat([h, sums[:, 3], (left * right).sum(dim=0)], dim=1)
            hidden = torch.addmm(layer.update_bias, inputs, layer.update)
            passed.append(
                _Passed(scalars, mean, rstd, at_receiver, at_sender, vectors[-2], mixed, hidden)
            )
            update = torch.addmm(layer.update_out_bias, silu(hidden), layer.update_out)
            scalars = update.add_(scalars)
        return scalars, vectors, passed

    def _decode(self, scalars: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Energies of the atoms (A,), the gradient of their sum by the scalars, and last features.

        The latter are `Branch.last_features`.
        """
        values, mean, rstd = self._norm(scalars)
        hidden = []
        *weights, (last, last_bias) = self._head
        for weight, bias in weights:
            hidden.append(torch.addmm(bias, values, weight))
            values = silu(hidden[-1])
        energies = torch.addmm(last_bias, values, last).squeeze(1) * self._scale
        grad = (last.T * self._scale).expand_as(values)
        for (weight, _), before in zip(reversed(weights), reversed(hidden), strict=True):
            grad = _silu_backward(grad, before) @ weight.T
        return energies, self._norm.backward(grad, scalars, mean, rstd), values

    def _backward(self, grad: Tensor, passed: list[_Passed]) -> None:
        """Add to the gradients of the geometry, given that of the last scalars, (A, F)."""
        width = grad.shape[1]
        vectors = torch.zeros_like(passed[-1].vectors)
        for index in reversed(range(len(self._layers))):
            layer, left = self._layers[index], passed[index]
            inputs = _silu_backward(grad @ layer.update_out.T, left.hidden) @ layer.update.T
            of_h, received, inner = inputs.tensor_split((width, 2 * width), dim=1)
            crossed = torch.cat(left.mixed.chunk(2, dim=2)[::-1], dim=2)
            crossed.mul_(torch.cat([inner, inner], dim=1))
            vectors = _apply(crossed, layer.mix.T).add_(vectors)
            pushes = _apply(vectors, layer.push.T).transpose(0, 1)
            grads = _Grads(
                sums=torch.cat([pushes, received[:, None]], dim=1),
                vectors=vectors,
                at_receiver=torch.empty_like(left.at_receiver),
                at_sender=torch.zeros_like(left.at_sender),
                before=vectors.flatten(0, 1).clone(),
            )
            for block in self._visit():
                messages = block.messages[index]
                if not self._keeps:
                    _send(layer, block, messages, left.at_receiver, left.at_sender, left.vectors)
                _send_back(layer, block, messages, left.at_receiver, grads)
            if index == 0:
                # What the atoms are does not depend on where they are.
                return
            along = _apply(grads.at_receiver, layer.along_receiver.T)[:, :3]
            vectors = grads.before.view_as(vectors).add_(along.transpose(0, 1))
            of_h = of_h.addmm(grads.at_receiver[:, 3], layer.receiver.T)
            of_h.addmm_(grads.at_sender, layer.sender.T)
            grad = layer.norm.backward(of_h, left.scalars, left.mean, left.rstd).add_(grad)


def _apply(values: Tensor, weight: Tensor) -> Tensor:
    """Product of (X, Y, inputs) and a weight (inputs, outputs), in one piece."""
    product = torch.mm(values.view(-1, weight.shape[0]), weight)
    return product.view(*values.shape[:2], weight.shape[1])


def _send(
    layer: _Weights,
    block: _Block,
    messages: _Messages,
    at_receiver: Tensor,
    at_sender: Tensor,
    vectors: Tensor,
) -> None:
    """Fill the messages of a block, and leave m in its `wide`; see the module's formula."""
    torch.index_select(at_sender, 0, block.sender, out=messages.hidden)
    messages.hidden_rows.baddbmm_(block.ends, block.of(at_receiver))
    messages.hidden.addmm_(block.radial, layer.radial)
    if layer.carries:
        torch.index_select(vectors.flatten(0, 1), 0, block.senders, out=messages.carried_flat)
        torch.mul(messages.carried, block.directions, out=block.products)
        along = torch.sum(block.products, 0, out=block.narrow)
        messages.hidden.addmm_(along, layer.along_sender)
    activated = _silu_into(messages.hidden, out=block.wide)
    torch.addmm(layer.message_bias, activated, layer.message, out=messages.inner)
    _silu_into(messages.inner, out=messages.activated)
    torch.mm(block.radial, layer.filter, out=messages.weight)
    torch.mul(messages.activated, messages.weight, out=block.wide)
    if layer.carries:
        torch.mm(block.wide, layer.carry, out=messages.lengths)


def _sum_up(
    layer: _Weights, block: _Block, messages: _Messages, sums: Tensor, carried: Tensor
) -> None:
    """Sum what `_send` left to [S_i, received_i], and the vectors that senders pass on."""
    torch.bmm(block.ends_by_column, block.wide_rows, out=block.of(sums))
    if layer.carries:
        torch.mul(messages.lengths, messages.carried, out=block.products)
        torch.sum(block.products_rows, 2, out=block.of_vectors(carried))


def _send_back(
    layer: _Weights, block: _Block, messages: _Messages, at_receiver: Tensor, grads: _Grads
) -> None:
    """Add a block's part to the gradients; the messages are not the same after that."""
    torch.mul(messages.activated, messages.weight, out=block.other)
    block.grad_ends.baddbmm_(block.other_rows, block.of(grads.sums)[:, :3].transpose(1, 2))
    grad = block.wide
    torch.bmm(block.ends, block.of(grads.sums), out=block.wide_rows)
    if layer.carries:
        torch.index_select(grads.vectors, 1, block.receiver, out=block.pulls)
        torch.mul(messages.carried, block.pulls, out=block.products)
        grad.addmm_(torch.sum(block.products, 0, out=block.narrow), layer.carry.T)
    block.grad_radial.addmm_(layer.filter, messages.activated.mul_(grad).T)
    _silu_backward_into(grad.mul_(messages.weight), messages.inner, grad_input=grad)
    grad = torch.mm(grad, layer.message.T, out=block.other)
    _silu_backward_into(grad, messages.hidden, grad_input=grad)
    block.grad_radial.addmm_(layer.radial, grad.T)
    torch.bmm(block.ends_by_column, block.other_rows, out=block.of(grads.at_receiver))
    grads.at_sender.index_add_(0, block.sender, grad)
    if layer.carries:
        weights = block.of(at_receiver)[:, :3].transpose(1, 2)
        block.grad_ends.baddbmm_(block.other_rows, weights)
        along = torch.mm(grad, layer.along_sender.T, out=block.narrow)
        torch.mul(block.directions, along, out=block.products)
        block.products.addcmul_(block.pulls, messages.lengths)
        grads.before.index_add_(0, block.senders, block.products_flat)
        block.grad_unit.add_(messages.carried.mul_(along).sum(dim=2))
