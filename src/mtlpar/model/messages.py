"""Messages of an EGNN layer, summed over receivers without keeping what edges made on the way.

For an edge from j to i with small features x_ij, unit vector u_ij and envelope c_ij, and per-atom
terms a = W_i h + b and s = W_j h that are products per atom instead of per edge,

    p = a_i + s_j + W_x x_ij,   z = W silu(p) + w,   m = silu(z) c_ij,
    received_i = sum_j m / sqrt(16),   pushed_i = sum_j (W_v m) u_ij / sqrt(16).

`_composed` writes this with ordinary operations: it can be differentiated twice, and so serves
forces that are gradients. `_Fused` is the same function cut into blocks of edges that stay in
cache. It keeps z alone, one number per edge and feature where the ordinary operations keep seven,
and computes p again, which costs no large product; with ``recompute`` it keeps nothing per edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, silu
from torch.utils.checkpoint import checkpoint

from mtlpar.model.geometry import TYPICAL_NEIGHBORS, Edge, sum_to_receivers

# On a CPU a block's few buffers should stay in the last-level cache. A GPU wants large kernels.
_BLOCK_EDGES = {"cpu": 2048}
_BLOCK_EDGES_ELSEWHERE = 65536


class MessageWeights(NamedTuple):
    """Weights of the formula above.

    Attributes:
        feature: W_x, (F, K).
        message: W, (F, F).
        bias: w, (F,).
        vector: W_v, (C, F).
    """

    feature: Tensor
    message: Tensor
    bias: Tensor
    vector: Tensor


def exchange(
    at_receiver: Tensor,
    at_sender: Tensor,
    features: Tensor,
    weights: MessageWeights,
    edge: Edge,
    *,
    recompute: bool,
) -> tuple[Tensor, Tensor]:
    """Send a message along every edge; see the module's formula.

    Args:
        at_receiver: a, (A, F).
        at_sender: s, (A, F).
        features: x, (E, K).
        weights: The layer's weights.
        edge: Geometry of the edges.
        recompute: Keep no edge features for the backward pass.

    Returns:
        Sums of messages (A, F) and of vectors (A, C, 3).
    """
    # A compiler fuses ordinary operations better than it sees through a loop over blocks.
    if not (edge.envelope.requires_grad or torch.compiler.is_compiling()):
        return _Fused.apply(  # type: ignore[no-untyped-call,no-any-return]
            torch.is_grad_enabled() and not recompute,
            at_receiver,
            at_sender,
            features,
            *weights,
            edge.envelope / math.sqrt(TYPICAL_NEIGHBORS),
            edge.direction,
            edge.receiver,
            edge.sender,
        )
    if recompute:
        return checkpoint(  # type: ignore[no-any-return]
            _composed, at_receiver, at_sender, features, weights, edge, use_reentrant=False
        )
    return _composed(at_receiver, at_sender, features, weights, edge)


def _composed(
    at_receiver: Tensor, at_sender: Tensor, features: Tensor, weights: MessageWeights, edge: Edge
) -> tuple[Tensor, Tensor]:
    hidden = at_receiver[edge.receiver] + at_sender[edge.sender] + linear(features, weights.feature)
    message = silu(linear(silu(hidden), weights.message, weights.bias)) * edge.envelope
    pushes = linear(message, weights.vector)[:, :, None] * edge.direction[:, None, :]
    atoms = len(at_receiver)
    return (
        sum_to_receivers(message, edge.receiver, atoms),
        sum_to_receivers(pushes, edge.receiver, atoms),
    )


class _Operands(NamedTuple):
    """Everything that blocks of edges need, in the type that products are computed in.

    The first seven are differentiated; the rest is geometry.
    """

    at_receiver: Tensor
    at_sender: Tensor
    features: Tensor
    feature_weight: Tensor
    message_weight: Tensor
    bias: Tensor
    vector_weight: Tensor
    envelope: Tensor
    direction: Tensor
    receiver: Tensor
    sender: Tensor

    def blocks(self) -> Iterator[tuple[slice, _Operands]]:
        """Consecutive edges, with the atoms and weights that all of them share."""
        size = _BLOCK_EDGES.get(self.features.device.type, _BLOCK_EDGES_ELSEWHERE)
        for start in range(0, len(self.features), size):
            edges = slice(start, start + size)
            yield (
                edges,
                self._replace(
                    features=self.features[edges],
                    envelope=self.envelope[edges],
                    direction=self.direction[edges],
                    receiver=self.receiver[edges],
                    sender=self.sender[edges],
                ),
            )

    def hidden(self) -> Tensor:
        """The formula's p."""
        hidden = self.at_receiver.index_select(0, self.receiver)
        hidden += self.at_sender.index_select(0, self.sender)
        return hidden.addmm_(self.features, self.feature_weight.T)

    def inner(self, activated: Tensor, out: Tensor | None) -> Tensor:
        """The formula's z from silu(p), written to ``out`` if given."""
        return torch.addmm(self.bias, activated, self.message_weight.T, out=out)


_DIFFERENTIATED = _Operands._fields[:7]


def _operands(tensors: Sequence[Tensor], dtype: torch.dtype | None) -> _Operands:
    operands = _Operands._make(tensors)
    if dtype is None:
        return operands
    # Directions stay exact: forces are made of them.
    rounded = {name: getattr(operands, name).to(dtype) for name in (*_DIFFERENTIATED, "envelope")}
    return operands._replace(**rounded)


class _Fused(torch.autograd.Function):
    """`_composed` over blocks of edges; differentiable once, and not by the geometry."""

    @staticmethod
    def forward(ctx: Any, keep: bool, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        device_type = tensors[0].device.type
        enabled = torch.is_autocast_enabled(device_type)
        # Remembered, because a backward pass usually runs outside of the caller's autocast.
        ctx.dtype = torch.get_autocast_dtype(device_type) if enabled else None
        with torch.autocast(device_type, enabled=False):
            received, pushed, inner = _forward(_operands(tensors, ctx.dtype), keep)
        ctx.save_for_backward(*tensors, *([] if inner is None else [inner]))
        return received, pushed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_received: Tensor, grad_pushed: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        tensors, inner = saved[: len(_Operands._fields)], saved[len(_Operands._fields) :]
        operands = _operands(tensors, ctx.dtype)
        with torch.autocast(tensors[0].device.type, enabled=False):
            gradients = _backward(operands, inner[0] if inner else None, grad_received, grad_pushed)
        cast = [grad.to(tensor.dtype) for grad, tensor in zip(gradients, tensors, strict=False)]
        return (None, *cast, *[None] * (len(tensors) - len(cast)))


def _forward(whole: _Operands, keep: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sums of messages and of vectors, in float32 at least, and z if it is to be kept."""
    atoms, width = whole.at_receiver.shape
    exact = _at_least_float32(whole.at_receiver.dtype)
    received = whole.at_receiver.new_zeros(atoms, width, dtype=exact)
    pushed = received.new_zeros(atoms, len(whole.vector_weight), 3)
    kept = whole.at_receiver.new_empty(len(whole.features), width) if keep else None
    for edges, block in whole.blocks():
        hidden = block.hidden()
        inner = block.inner(silu(hidden, inplace=True), None if kept is None else kept[edges])
        message = silu(inner).mul_(block.envelope)
        received.index_add_(0, block.receiver, message.to(exact))
        lengths = (message @ block.vector_weight.T).to(exact)
        pushed.index_add_(0, block.receiver, lengths[:, :, None] * block.direction[:, None, :])
    return received, pushed, kept


def _backward(
    whole: _Operands, kept: Tensor | None, grad_received: Tensor, grad_pushed: Tensor
) -> list[Tensor]:
    """Gradients of the first seven operands, by the chain rule on the module's formula."""
    exact = _at_least_float32(whole.at_receiver.dtype)
    dtype = whole.at_receiver.dtype
    grad_received = grad_received.to(dtype)
    totals = _Operands._make(torch.zeros_like(operand, dtype=exact) for operand in whole)
    for edges, block in whole.blocks():
        hidden = block.hidden()
        activated = silu(hidden)
        inner = block.inner(activated, None) if kept is None else kept[edges]
        message = silu(inner).mul_(block.envelope)
        pushes = grad_pushed.index_select(0, block.receiver)
        grad_lengths = (pushes @ block.direction[:, :, None]).squeeze(2).to(dtype)
        totals.vector_weight.add_(grad_lengths.T @ message)
        grad = torch.mm(grad_lengths, block.vector_weight, out=message)
        grad.add_(grad_received.index_select(0, block.receiver)).mul_(block.envelope)
        grad = torch.ops.aten.silu_backward(grad, inner)
        totals.message_weight.add_(grad.T @ activated)
        totals.bias.add_(grad.sum(0))
        grad = torch.mm(grad, block.message_weight, out=activated)
        grad = torch.ops.aten.silu_backward(grad, hidden)
        totals.feature_weight.add_(grad.T @ block.features)
        totals.features[edges] = (grad @ block.feature_weight).to(exact)
        totals.at_receiver.index_add_(0, block.receiver, grad.to(exact))
        totals.at_sender.index_add_(0, block.sender, grad.to(exact))
    return [getattr(totals, name) for name in _DIFFERENTIATED]


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
