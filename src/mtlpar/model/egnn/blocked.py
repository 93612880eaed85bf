"""The messages of `mtlpar.model.egnn.messages` on a CPU, in blocks of edges that stay in cache.

z alone is kept, one number per edge and feature where ordinary operations keep nine; the rest is
computed again, which costs no large product. With ``recompute`` nothing per edge is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, silu

from mtlpar.model.geometry import TYPICAL_NEIGHBORS
from mtlpar.model.linear import product_dtype

# On a CPU a block's few buffers should stay in the last-level cache. Other devices that have no
# kernels of ours want large operations.
CPU_BLOCK_EDGES = 2048
_BLOCK_EDGES_ELSEWHERE = 65536


def edge_features(radial: Tensor, ends: tuple[Tensor, Tensor], direction: Tensor) -> Tensor:
    """What an edge gets beside its atoms' scalars, (E, K + 2 D), in the type of ``radial``."""
    along = [(vectors * direction[:, None, :]).sum(dim=2).to(radial.dtype) for vectors in ends]
    return torch.cat([radial, *along], dim=1)


def pushed_vectors(lengths: Tensor, carried: Tensor, direction: Tensor) -> Tensor:
    """Vectors that edges bring, (E, C, 3): along the edge, and of the sender (E, D, 3)."""
    channels = lengths.shape[1] - carried.shape[1]
    pushes = lengths[:, :channels, None] * direction[:, None, :]
    return pushes + lengths[:, channels:, None] * carried if carried.shape[1] else pushes


class Operands(NamedTuple):
    """Everything that messages are made of; see the formula in `mtlpar.model.egnn.messages`.

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

    def blocks(self) -> Iterator[tuple[slice, Operands]]:
        """Consecutive edges, with the atoms and weights that all of them share."""
        on_cpu = self.radial.device.type == "cpu"
        size = CPU_BLOCK_EDGES if on_cpu else _BLOCK_EDGES_ELSEWHERE
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

    def atom_terms(self) -> Tensor:
        """The formula's a above s, (2 A, F)."""
        return torch.cat([self.at_receiver, self.at_sender])

    def hidden(self, atom_terms: Tensor, features: Tensor) -> Tensor:
        """The formula's p."""
        # Adds up the two rows of an edge on the way, in a third of the time of two selections.
        rows = torch.stack([self.receiver, self.sender + len(self.at_receiver)], dim=1)
        hidden = embedding_bag(rows, atom_terms, mode="sum")
        return hidden.addmm_(features, self.feature_weight.T)

    def inner(self, activated: Tensor, out: Tensor | None) -> Tensor:
        """The formula's z from silu(p), written to ``out`` if given."""
        return torch.addmm(self.bias, activated, self.message_weight.T, out=out)

    def filter(self) -> Tensor:
        """The formula's W_f e_ij."""
        return self.radial @ self.filter_weight.T


_DIFFERENTIATED = Operands._fields[:8]
# Forces are made of vectors and directions, which are never rounded.
_ROUNDED = tuple(name for name in (*_DIFFERENTIATED, "radial") if name != "vectors")


def _operands(tensors: Sequence[Tensor], dtype: torch.dtype) -> Operands:
    operands = Operands._make(tensors)
    return operands._replace(**{name: getattr(operands, name).to(dtype) for name in _ROUNDED})


class BlockedMessages(torch.autograd.Function):
    """Differentiable once, and not by the geometry. Arguments: whether to keep, and `Operands`."""

    @staticmethod
    def forward(ctx: Any, keep: bool, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """See `mtlpar.model.egnn.messages.exchange`."""
        # Remembered, because a backward pass usually runs outside of the caller's autocast.
        ctx.dtype = product_dtype(tensors[0])
        with torch.autocast(tensors[0].device.type, enabled=False):
            received, pushed, inner = _forward(_operands(tensors, ctx.dtype), keep)
        ctx.save_for_backward(*tensors, *([] if inner is None else [inner]))
        return received, pushed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_received: Tensor, grad_pushed: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the operands that have one."""
        saved = ctx.saved_tensors
        tensors, inner = saved[: len(Operands._fields)], saved[len(Operands._fields) :]
        operands = _operands(tensors, ctx.dtype)
        with torch.autocast(tensors[0].device.type, enabled=False):
            gradients = _backward(operands, inner[0] if inner else None, grad_received, grad_pushed)
        cast = [grad.to(tensor.dtype) for grad, tensor in zip(gradients, tensors, strict=False)]
        return (None, *cast, *[None] * (len(tensors) - len(cast)))


def _forward(whole: Operands, keep: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sums of messages and of vectors, in float32 at least, and z if it is to be kept."""
    atoms, width = whole.at_receiver.shape
    exact = _at_least_float32(whole.at_receiver.dtype)
    received = whole.at_receiver.new_zeros(atoms, width, dtype=exact)
    channels = len(whole.vector_weight) - whole.vectors.shape[1]
    pushed = received.new_zeros(atoms, channels, 3)
    kept = whole.at_receiver.new_empty(len(whole.radial), width) if keep else None
    atom_terms = whole.atom_terms()
    for edges, block in whole.blocks():
        ends = block.ends()
        hidden = block.hidden(atom_terms, edge_features(block.radial, ends, block.direction))
        inner = block.inner(silu(hidden, inplace=True), None if kept is None else kept[edges])
        message = silu(inner).mul_(block.filter())
        received.index_add_(0, block.receiver, message.to(exact))
        lengths = (message @ block.vector_weight.T).to(exact)
        pushed.index_add_(0, block.receiver, pushed_vectors(lengths, ends[1], block.direction))
    scale = 1 / math.sqrt(TYPICAL_NEIGHBORS)
    return received.mul_(scale), pushed.mul_(scale), kept


def _backward(
    whole: Operands, kept: Tensor | None, grad_received: Tensor, grad_pushed: Tensor
) -> list[Tensor]:
    """Gradients of the first eight operands, by the chain rule on the module's formula."""
    exact = _at_least_float32(whole.at_receiver.dtype)
    dtype = whole.at_receiver.dtype
    scale = 1 / math.sqrt(TYPICAL_NEIGHBORS)
    grad_received, grad_pushed = (grad_received * scale).to(dtype), grad_pushed * scale
    totals = whole._replace(
        **{name: torch.zeros_like(getattr(whole, name), dtype=exact) for name in _DIFFERENTIATED}
    )
    atom_terms = whole.atom_terms()
    for edges, block in whole.blocks():
        ends = block.ends()
        features = edge_features(block.radial, ends, block.direction)
        hidden = block.hidden(atom_terms, features)
        activated = silu(hidden)
        inner = block.inner(activated, None) if kept is None else kept[edges]
        unfiltered, weight = silu(inner), block.filter()
        message = unfiltered * weight
        pushes = grad_pushed.index_select(0, block.receiver)
        grad_lengths = _length_gradients(pushes, ends[1], block.direction).to(dtype)
        totals.vector_weight.add_(grad_lengths.T @ message)
        _add_carried(totals, block, message, pushes)
        grad = torch.index_select(grad_received, 0, block.receiver, out=message)
        grad.addmm_(grad_lengths, block.vector_weight)
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
    """Gradients by the lengths that `pushed_vectors` is given, (E, C + D)."""
    along = (pushes @ direction[:, :, None]).squeeze(2)
    return torch.cat([along, (pushes * carried).sum(dim=2)], dim=1) if carried.shape[1] else along


def _add_carried(totals: Operands, block: Operands, message: Tensor, pushes: Tensor) -> None:
    """Add the gradients of the vectors that senders pass on."""
    count = totals.vectors.shape[1]
    if count:
        through = (message @ block.vector_weight[-count:].T).to(pushes.dtype)
        totals.vectors.index_add_(0, block.sender, through[:, :, None] * pushes)


def _add_along(totals: Operands, block: Operands, grad_hidden: Tensor) -> None:
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
