"""Messages along a table, and their gradient by the geometry, as functions of autograd.

The pass back from a loss of energies and forces reaches a layer twice: `GeometryGradient`, by the
forces that come through the layer, and `TableMessages`, by its sums. One walk along the edges is
enough for both. So the first computes how the sums move and hands on what it was given, as if that
were a gradient of *carriers*, outputs of the second that have no numbers. The second then has all
it needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mtlpar.model.egnn.tabled.memory import Table
from mtlpar.model.egnn.tabled.messages import (
    WEIGHTS,
    Layer,
    Operands,
    axis_first,
    by_atoms_and_weights,
    of_push,
    outputs,
    sums,
)
from mtlpar.model.egnn.tabled.moving import (
    Moves,
    by_atoms_and_geometry,
    by_atoms_and_weights_in_motion,
    moves_of_sums,
)


class TableMessages(torch.autograd.Function):
    """Differentiable once by atoms and weights, and, where forces come first, by the geometry.

    Arguments: whether to keep what edges leave, `Table`, then `Operands`.
    """

    @staticmethod
    def forward(ctx: Any, keep: bool, table: Table, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See `mtlpar.model.egnn.messages.exchange`; the carriers come behind the sums."""
        ctx.table = table
        with torch.autocast(tensors[0].device.type, enabled=False):
            layer, carried = sums(Operands(*tensors), table, keep=keep)
            received, pushed = outputs(layer, layer.left.total, carried)
        shapes = []
        if table.forces:
            others = (layer.weights.push, layer.left.memory)
            shapes = [*Moves.shapes(layer, pushed.shape[1]), *(one.shape for one in others)]
        carriers = [received.new_zeros(()).expand(shape) for shape in shapes]
        ctx.set_materialize_grads(value=False)
        ctx.save_for_backward(*layer.tensors, *carriers)
        return received, pushed, *carriers

    @staticmethod
    def backward(
        ctx: Any, received: Tensor | None, pushed: Tensor | None, *handed: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Gradients of the operands that have one in this pass."""
        forces = ctx.table.forces
        layer = Layer.of(ctx.table, ctx.saved_tensors)
        pulls = _or_zeros(layer, received, pushed)
        if forces is None or not forces.are_sought:
            return _gradients_of_weights(layer, *pulls, *handed)
        at_receiver, at_sender, vectors, radial, direction = GeometryGradient.apply(  # type: ignore[no-untyped-call]
            ctx.table, *pulls, *ctx.saved_tensors
        )
        weights = [None] * len(WEIGHTS)
        return None, None, at_receiver, at_sender, vectors, *weights, radial, direction


def _or_zeros(
    layer: Layer, received: Tensor | None, pushed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of the sums where one of them is none."""
    atoms, channels = len(layer.given.sender), len(layer.weights.push)
    if received is None:
        received = torch.zeros_like(layer.given.sender)
    return received, received.new_zeros(atoms, channels, 3) if pushed is None else pushed


@once_differentiable
def _gradients_of_weights(
    layer: Layer, received: Tensor, pushed: Tensor, *handed: Tensor | None
) -> tuple[Tensor | None, ...]:
    """And of atoms' terms and vectors, but not of the geometry."""
    pushed = axis_first(pushed)
    with torch.autocast(received.device.type, enabled=False):
        given = [one for one in handed if one is not None]
        if given:
            *moves, push, memory = given
            pulls = (received, pushed)
            found = by_atoms_and_weights_in_motion(layer, Moves(*moves), (push, memory), pulls)
        else:
            found = by_atoms_and_weights(layer, (received, pushed))
    return None, None, *found, None, None


class GeometryGradient(torch.autograd.Function):
    """Gradients of atoms' terms, vectors and geometry.

    Differentiated, it gives how the sums move; all else is left to `TableMessages`.

    Arguments: `Table`, gradients of the sums (A, F) and (A, C, 3), the tensors of `Layer` and the
    carriers.
    """

    @staticmethod
    def forward(
        ctx: Any, table: Table, received: Tensor, pushed: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Gradients of a, s, V, e and u."""
        ctx.table, layer = table, Layer.of(table, tensors)
        ctx.save_for_backward(received, pushed, *layer.tensors)
        with torch.autocast(received.device.type, enabled=False):
            return by_atoms_and_geometry(layer, (received, axis_first(pushed)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *moves: Tensor) -> tuple[Tensor | None, ...]:
        """Moves of the sums, and what the carriers take on."""
        received, pushed, *tensors = ctx.saved_tensors
        layer = Layer.of(ctx.table, tensors)
        with torch.autocast(received.device.type, enabled=False):
            found = Moves.of(layer, moves, (received, axis_first(pushed)))
            left, carried = moves_of_sums(layer, found)
            by_sums = outputs(layer, left.total, carried)
            push = of_push(left.total, found.pushed)
        return None, *by_sums, *[None] * len(tensors), *found, push, left.memory
