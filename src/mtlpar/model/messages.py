"""Messages of an EGNN layer, summed over receivers without keeping what edges made on the way.

For an edge from j to i with radial functions e_ij, unit vector u_ij, the vectors V_i and V_j of its
atoms, and per-atom terms a = W_i h + b and s = W_j h that are products per atom, not per edge,

    p = a_i + s_j + W_x [e_ij, V_i.u_ij, V_j.u_ij],
    z = W silu(p) + w,   m = silu(z) * (W_f e_ij),
    received_i = sum_j m / sqrt(16),   pushed_i = sum_j ((W_v m) u_ij + (W_c m) V_j) / sqrt(16).

The radial functions vanish at the cutoff, so every message does. `_composed` writes this with
ordinary operations: it can be differentiated twice, and so serves forces that are gradients.
`_Fused` is the same function cut into blocks of edges that stay in cache. It keeps z alone, one
number per edge and feature where the ordinary operations keep nine, and computes the rest again,
which costs no large product; with ``recompute`` it keeps nothing per edge.
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
    """Weights of the formula above, for K radial functions and atoms with D vectors.

    Attributes:
        feature: W_x, (F, K + 2 D).
        message: W, (F, F).
        bias: w, (F,).
        filter: W_f, (F, K).
        vector: W_v above W_c, (C + D, F). Atoms come with as many vectors as they get, D = C, or
            with none yet.
    """

    feature: Tensor
    message: Tensor
    bias: Tensor
    filter: Tensor
    vector: Tensor


def exchange(
    at_receiver: Tensor,
    at_sender: Tensor,
    vectors: Tensor,
    weights: MessageWeights,
    edge: Edge,
    *,
    recompute: bool,
) -> tuple[Tensor, Tensor]:
    """Send a message along every edge; see the module's formula.

    Args:
        at_receiver: a, (A, F).
        at_sender: s, (A, F).
        vectors: V, (A, D, 3).
        weights: The layer's weights.
        edge: Geometry of the edges.
        recompute: Keep no edge features for the backward pass.

    Returns:
        Sums of messages (A, F) and of vectors (A, C, 3).
    """
    # A compiler fuses ordinary operations better than it sees through a loop over blocks.
    if not (edge.radial.requires_grad or torch.compiler.is_compiling()):
        return _Fused.apply(  # type: ignore[no-untyped-call,no-any-return]
            torch.is_grad_enabled() and not recompute,
            at_receiver,
            at_sender,
            vectors,
            *weights,
            edge.radial,
            edge.direction,
            edge.receiver,
            edge.sender,
        )
    if recompute:
        return checkpoint(  # type: ignore[no-any-return]
            _composed, at_receiver, at_sender, vectors, weights, edge, use_reentrant=False
        )
    return _composed(at_receiver, at_sender, vectors, weights, edge)


def _composed(
    at_receiver: Tensor, at_sender: Tensor, vectors: Tensor, weights: MessageWeights, edge: Edge
) -> tuple[Tensor, Tensor]:
    ends = vectors[edge.receiver], vectors[edge.sender]
    features = _edge_features(edge.radial, ends, edge.direction)
    hidden = at_receiver[edge.receiver] + at_sender[edge.sender] + linear(features, weights.feature)
    message = silu(linear(silu(hidden), weights.message, weights.bias))
    message = message * linear(edge.radial, weights.filter)
    pushes = _pushes(linear(message, weights.vector), ends[1], edge.direction)
    atoms = len(at_receiver)
    return (
        sum_to_receivers(message, edge.receiver, atoms),
        sum_to_receivers(pushes, edge.receiver, atoms),
    )


def _edge_features(radial: Tensor, ends: tuple[Tensor, Tensor], direction: Tensor) -> Tensor:
    """What an edge is told beside its atoms' scalars, (E, K + 2 D), in the type of ``radial``."""
    along = [(vectors * direction[:, None, :]).sum(dim=2).to(radial.dtype) for vectors in ends]
    return torch.cat([radial, *along], dim=1)


def _pushes(lengths: Tensor, carried: Tensor, direction: Tensor) -> Tensor:
    """Vectors that edges bring, (E, C, 3): along the edge, and of the sender (E, D, 3)."""
    channels = lengths.shape[1] - carried.shape[1]
    pushes = lengths[:, :channels, None] * direction[:, None, :]
    return pushes + lengths[:, channels:, None] * carried if carried.shape[1] else pushes


class _Operands(NamedTuple):
    """Everything that blocks of edges need, in the type that products are computed in.

    The first eight are differentiated; the rest is geometry.
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
    receiver: Tensor
    sender: Tensor

    def blocks(self) -> Iterator[tuple[slice, _Operands]]:
        """Consecutive edges, with the atoms and weights that all of them share."""
        size = _BLOCK_EDGES.get(self.radial.device.type, _BLOCK_EDGES_ELSEWHERE)
        for start in range(0, len(self.radial), size):
            edges = slice(start, start + size)
            yield (
                edges,
                self._replace(
                    radial=self.radial[edges],
                    direction=self.direction[edges],
                    receiver=self.receiver[edges],
                    sender=self.sender[edges],
                ),
            )

    def ends(self) -> tuple[Tensor, Tensor]:
        """The formula's V_i and V_j, (E, D, 3)."""
        of_receiver = self.vectors.index_select(0, self.receiver)
        return of_receiver, self.vectors.index_select(0, self.sender)

    def hidden(self, features: Tensor) -> Tensor:
        """The formula's p."""
        hidden = self.at_receiver.index_select(0, self.receiver)
        hidden += self.at_sender.index_select(0, self.sender)
        return hidden.addmm_(features, self.feature_weight.T)

    def inner(self, activated: Tensor, out: Tensor | None) -> Tensor:
        """The formula's z from silu(p), written to ``out`` if given."""
        return torch.addmm(self.bias, activated, self.message_weight.T, out=out)

    def filter(self) -> Tensor:
        """The formula's W_f e_ij."""
        return self.radial @ self.filter_weight.T


_DIFFERENTIATED = _Operands._fields[:8]
# Forces are made of vectors and directions, which are never rounded.
_ROUNDED = tuple(name for name in (*_DIFFERENTIATED, "radial") if name != "vectors")


def _operands(tensors: Sequence[Tensor], dtype: torch.dtype | None) -> _Operands:
    operands = _Operands._make(tensors)
    if dtype is None:
        return operands
    return operands._replace(**{name: getattr(operands, name).to(dtype) for name in _ROUNDED})


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
    channels = len(whole.vector_weight) - whole.vectors.shape[1]
    pushed = received.new_zeros(atoms, channels, 3)
    kept = whole.at_receiver.new_empty(len(whole.radial), width) if keep else None
    for edges, block in whole.blocks():
        ends = block.ends()
        hidden = block.hidden(_edge_features(block.radial, ends, block.direction))
        inner = block.inner(silu(hidden, inplace=True), None if kept is None else kept[edges])
        message = silu(inner).mul_(block.filter())
        received.index_add_(0, block.receiver, message.to(exact))
        lengths = (message @ block.vector_weight.T).to(exact)
        pushed.index_add_(0, block.receiver, _pushes(lengths, ends[1], block.direction))
    scale = 1 / math.sqrt(TYPICAL_NEIGHBORS)
    return received.mul_(scale), pushed.mul_(scale), kept


def _backward(
    whole: _Operands, kept: Tensor | None, grad_received: Tensor, grad_pushed: Tensor
) -> list[Tensor]:
    """Gradients of the first eight operands, by the chain rule on the module's formula."""
    exact = _at_least_float32(whole.at_receiver.dtype)
    dtype = whole.at_receiver.dtype
    scale = 1 / math.sqrt(TYPICAL_NEIGHBORS)
    grad_received, grad_pushed = (grad_received * scale).to(dtype), grad_pushed * scale
    totals = whole._replace(
        **{name: torch.zeros_like(getattr(whole, name), dtype=exact) for name in _DIFFERENTIATED}
    )
    for edges, block in whole.blocks():
        ends = block.ends()
        features = _edge_features(block.radial, ends, block.direction)
        hidden = block.hidden(features)
        activated = silu(hidden)
        inner = block.inner(activated, None) if kept is None else kept[edges]
        unfiltered, weight = silu(inner), block.filter()
        message = unfiltered * weight
        pushes = grad_pushed.index_select(0, block.receiver)
        grad_lengths = _length_gradients(pushes, ends[1], block.direction).to(dtype)
        totals.vector_weight.add_(grad_lengths.T @ message)
        _add_carried(totals, block, message, pushes)
        grad = torch.mm(grad_lengths, block.vector_weight, out=message)
        grad.add_(grad_received.index_select(0, block.receiver))
        totals.filter_weight.add_(unfiltered.mul_(grad).T @ block.radial)
        grad = torch.ops.aten.silu_backward(grad.mul_(weight), inner)
        totals.message_weight.add_(grad.T @ activated)
        totals.bias.add_(grad.sum(0))
        grad = torch.mm(grad, block.message_weight, out=activated)
        grad = torch.ops.aten.silu_backward(grad, hidden)
        totals.feature_weight.add_(grad.T @ features)
        _add_along(totals, block, grad)
        totals.at_receiver.index_add_(0, block.receiver, grad.to(exact))
        totals.at_sender.index_add_(0, block.sender, grad.to(exact))
    return [getattr(totals, name) for name in _DIFFERENTIATED]


def _length_gradients(pushes: Tensor, carried: Tensor, direction: Tensor) -> Tensor:
    """Gradients by the lengths that `_pushes` is given, (E, C + D)."""
    along = (pushes @ direction[:, :, None]).squeeze(2)
    return torch.cat([along, (pushes * carried).sum(dim=2)], dim=1) if carried.shape[1] else along


def _add_carried(totals: _Operands, block: _Operands, message: Tensor, pushes: Tensor) -> None:
    """Add the gradients of the vectors that senders pass on."""
    count = totals.vectors.shape[1]
    if count:
        through = (message @ block.vector_weight[-count:].T).to(pushes.dtype)
        totals.vectors.index_add_(0, block.sender, through[:, :, None] * pushes)


def _add_along(totals: _Operands, block: _Operands, grad_hidden: Tensor) -> None:
    """Add the gradients of the vectors whose components along the edges are features."""
    count = totals.vectors.shape[1]
    if count:
        grad_along = (grad_hidden @ block.feature_weight[:, -2 * count :]).to(totals.vectors.dtype)
        of_receiver, of_sender = grad_along.chunk(2, dim=1)
        direction = block.direction[:, None, :]
        totals.vectors.index_add_(0, block.receiver, of_receiver[:, :, None] * direction)
        totals.vectors.index_add_(0, block.sender, of_sender[:, :, None] * direction)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
