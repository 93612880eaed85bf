"""Messages in blocks, and their gradient by the geometry, as functions of autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mtlpar.model.egnn.blocked import Operands, by_atom, by_atoms_and_weights, by_axis, sums
from mtlpar.model.egnn.edges import Block, Blocks
from mtlpar.model.egnn.twice import by_atoms_and_geometry, moves_and_gradients
from mtlpar.model.linear import product_dtype

_WEIGHTS = Operands._fields[3:8]
# What the gradient by the geometry is given beside the weights.
_OTHERS = tuple(name for name in Operands._fields if name not in _WEIGHTS)


class BlockedMessages(torch.autograd.Function):
    """Differentiable once by atoms and weights, and, where forces come first, by the geometry.

    Arguments: whether to keep z, `Blocks`, then `Operands`.
    """

    @staticmethod
    def forward(ctx: Any, keep: bool, blocks: Blocks, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """See `mtlpar.model.egnn.messages.exchange`."""
        # Remembered, because a backward pass usually runs outside of the caller's autocast.
        ctx.dtype = product_dtype(tensors[0])
        ctx.blocks = blocks
        with torch.autocast(tensors[0].device.type, enabled=False):
            operands = Operands(*tensors).in_tables(ctx.dtype)
            received, pushed, inner = sums(operands, blocks.parts, keep=keep)
        ctx.save_for_backward(inner, *tensors)
        return received, by_atom(pushed)

    @staticmethod
    def backward(ctx: Any, grad_received: Tensor, grad_pushed: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the operands that have one in this pass."""
        if ctx.blocks.forces is None or not ctx.blocks.forces.are_sought:
            return _gradients_of_weights(ctx, grad_received, grad_pushed)
        inner, *tensors = ctx.saved_tensors
        at_receiver, at_sender, vectors, radial, directions = GeometryGradient.apply(  # type: ignore[no-untyped-call]
            ctx.dtype, ctx.blocks.parts, inner, grad_received, grad_pushed, *tensors
        )
        weights = [None] * len(_WEIGHTS)
        return None, None, at_receiver, at_sender, vectors, *weights, radial, directions


@once_differentiable
def _gradients_of_weights(
    ctx: Any, grad_received: Tensor, grad_pushed: Tensor
) -> tuple[Tensor | None, ...]:
    """And of atoms' terms and vectors, but not of the geometry."""
    inner, *tensors = ctx.saved_tensors
    with torch.autocast(grad_received.device.type, enabled=False):
        operands = Operands(*tensors).in_tables(ctx.dtype)
        grads = (grad_received.to(ctx.dtype), by_axis(grad_pushed))
        found = by_atoms_and_weights(operands, ctx.blocks.parts, inner, *grads)
    return None, None, *_cast(found, tensors), None, None


class GeometryGradient(torch.autograd.Function):
    """Gradients of atoms' terms, vectors and geometry. Differentiable by all but the geometry.

    Arguments: type of the products, blocks, z if it was kept, gradients of the sums (A, F) and
    (A, C, 3), then `Operands`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        dtype: torch.dtype,
        blocks: Sequence[Block],
        inner: Tensor | None,
        grad_received: Tensor,
        grad_pushed: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """Gradients of a, s, V, e and u."""
        ctx.dtype, ctx.blocks = dtype, blocks
        ctx.save_for_backward(inner, grad_received, grad_pushed, *tensors)
        with torch.autocast(grad_received.device.type, enabled=False):
            operands = Operands(*tensors).in_tables(dtype)
            grads = (grad_received.to(dtype), by_axis(grad_pushed))
            found = by_atoms_and_geometry(operands, blocks, inner, *grads)
        given = Operands(*tensors)
        return tuple(_cast(found, [getattr(given, name) for name in _OTHERS]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *moves: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the sums' gradients, atoms' terms, vectors and weights."""
        inner, grad_received, grad_pushed, *tensors = ctx.saved_tensors
        operands = Operands(*tensors)
        moving = operands._replace(**dict(zip(_OTHERS, moves, strict=True)))
        with torch.autocast(grad_received.device.type, enabled=False):
            moved, found = moves_and_gradients(
                operands.in_tables(ctx.dtype),
                moving.in_tables(ctx.dtype),
                ctx.blocks,
                inner,
                (grad_received.to(ctx.dtype), by_axis(grad_pushed)),
            )
        by_sums = _cast(moved, [grad_received, grad_pushed])
        return None, None, None, *by_sums, *_cast(found, tensors), None, None


def _cast(found: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """In the types of the operands; those at the end have none."""
    return [one.to(other.dtype) for one, other in zip(found, like, strict=False)]
