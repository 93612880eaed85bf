"""The messages of `mtlpar.model.egnn.messages` on a GPU, in kernels of `mtlpar.model.egnn.kernels`.

The large products are left to the library. Between them one kernel each does everything that is
done per edge and feature, so that such numbers are read and written as seldom as products allow.
z is kept, one number per edge and feature, or nothing with ``recompute``; where a number has two
bytes silu(p) is kept too, which is no more than z in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mtlpar.model.egnn import kernels
from mtlpar.model.geometry import TYPICAL_NEIGHBORS, EdgeRuns
from mtlpar.model.linear import product_dtype

_SCALE = 1 / math.sqrt(TYPICAL_NEIGHBORS)
# Sums over all edges are made in so many parts: enough programs for a GPU, not too much to add up.
_PARTS = 128
_EXACT = "ieee" if torch.version.hip else "tf32x3"


class _Tile(NamedTuple):
    """Edges and features that a program does at a time, its warps, and stages of its loads."""

    edges: int
    features: int
    warps: int
    stages: int


# Atoms whose sums one program makes, where it makes them for many features and for few numbers.
_ATOMS = 16
_FEW_ATOMS = 4
# Edges that a program does at a time where it does few numbers of each.
_SMALL = 32
# The fastest of sixteen on an H200 with the `paper` preset's 866 features, by bytes of a feature.
_TILES = {
    2: {
        "activate": _Tile(64, 64, 4, 2),
        "collect": _Tile(64, 64, 4, 2),
        "message_gradients": _Tile(32, 64, 4, 2),
        "hidden_gradients": _Tile(32, 64, 4, 2),
        "sender_gradients": _Tile(64, 128, 8, 2),
    },
    4: {
        "activate": _Tile(32, 128, 4, 2),
        "collect": _Tile(32, 64, 4, 2),
        "message_gradients": _Tile(32, 64, 4, 2),
        "hidden_gradients": _Tile(32, 64, 4, 2),
        "sender_gradients": _Tile(32, 64, 4, 2),
    },
}


class KernelOperands(NamedTuple):
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


class TritonMessages(torch.autograd.Function):
    """Differentiable once, and not by the geometry.

    Arguments: whether to keep, then `KernelOperands` and `EdgeRuns`.
    """

    @staticmethod
    def forward(ctx: Any, keep: bool, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """See `mtlpar.model.egnn.messages.exchange`."""
        # Remembered, because a backward pass usually runs outside of the caller's autocast.
        ctx.dtype = product_dtype(tensors[0])
        with torch.autocast(tensors[0].device.type, enabled=False):
            work = _work(tensors, ctx.dtype)
            features = work.features()
            activated = work.activated(features)
            inner = work.inner(activated)
            received, pushed, carried = work.collect(inner, features)
        kept = (inner, carried, activated) if ctx.dtype.itemsize == 2 else (inner, carried)
        ctx.save_for_backward(*tensors, *(kept if keep else ()))
        return received, pushed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_received: Tensor, grad_pushed: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the operands that have one."""
        saved = ctx.saved_tensors
        count = len(KernelOperands._fields) + len(EdgeRuns._fields)
        tensors, kept = saved[:count], saved[count:]
        with torch.autocast(tensors[0].device.type, enabled=False):
            work = _work(tensors, ctx.dtype)
            features = work.features()
            inner, carried, activated = (*kept, None, None, None)[:3]
            if activated is None:
                activated = work.activated(features)
            if inner is None:
                inner = work.inner(activated)
                _, _, carried = work.collect(inner, features)
            gradients = work.gradients(
                inner, features, activated, carried, grad_received, grad_pushed.contiguous()
            )
        cast = [grad.to(tensor.dtype) for grad, tensor in zip(gradients, tensors, strict=False)]
        return (None, *cast, *[None] * (count - len(cast)))


# A compiler cannot look into kernels. Stated here, because saying so imports the compiler.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def messages_in_kernels(
    keep: bool, operands: KernelOperands, runs: EdgeRuns
) -> tuple[Tensor, Tensor]:
    """See `mtlpar.model.egnn.messages.exchange`."""
    return TritonMessages.apply(  # type: ignore[no-untyped-call,no-any-return]
        keep, *operands, *runs
    )


class _Work:
    """KernelOperands as kernels want them, and the launches.

    Sizes that kernels are compiled for: width F, rows of F as they are stored, K, C and D, and
    columns of K + 2 D and of C + D as they are stored.
    """

    def __init__(self, operands: KernelOperands, runs: EdgeRuns, dtype: torch.dtype) -> None:
        self.dtype, self.tiles = dtype, _TILES[dtype.itemsize]
        self.width, self.num_radial = operands.filter_weight.shape
        self.padded = -(-self.width // 16) * 16
        self.at_receiver = self._pad_rows(operands.at_receiver)
        self.at_sender = self._pad_rows(operands.at_sender)
        self.vectors = operands.vectors.contiguous()
        self.radial = operands.radial.contiguous()
        self.direction = operands.direction
        self.receiver, self.sender = operands.receiver, operands.sender
        self.receiver_start, self.sender_order, self.sender_start = runs
        self.atoms, self.edges = len(self.at_receiver), len(self.radial)
        self.num_carried = self.vectors.shape[1]
        self.channels = len(operands.vector_weight) - self.num_carried
        # Three products in tf32 are as exact as one in float32, which the matrix units do not have.
        exact = torch.get_float32_matmul_precision() == "highest"
        self.precision = _EXACT if exact else "tf32"
        self._pad(operands)

    def _pad_rows(self, rows: Tensor) -> Tensor:
        """Rows of features as kernels want them, in the type of the products."""
        if self.width == self.padded:
            return rows.to(self.dtype).contiguous()
        out = rows.new_zeros(len(rows), self.padded, dtype=self.dtype)
        out[:, : self.width] = rows
        return out

    def _pad(self, operands: KernelOperands) -> None:
        """Copy weights to where rows are padded, with features along rows."""
        features = _columns(self.num_radial + 2 * self.num_carried)
        lengths = _columns(self.channels + self.num_carried)
        sizes = [self.padded, 1, features, features, lengths]
        flat = self.at_receiver.new_zeros(sum(sizes), self.padded)
        message, bias, feature, filters, vector = torch.split(flat, sizes)
        message[: self.width, : self.width] = operands.message_weight
        bias[0, : self.width] = operands.bias
        feature[: operands.feature_weight.shape[1], : self.width] = operands.feature_weight.T
        filters[: self.num_radial, : self.width] = operands.filter_weight.T
        vector[: len(operands.vector_weight), : self.width] = operands.vector_weight
        self.message_weight, self.bias = message, bias[0]
        self.feature_weight, self.filter_weight, self.vector_weight = feature, filters, vector

    def _launch(self, name: str, programs: int, *arguments: Any, **sizes: int) -> None:
        """Start a kernel over some programs and all features."""
        tile = self.tiles[name]
        kernel = getattr(kernels, name)
        kernel[(programs, _blocks(self.width, tile.features))](
            *arguments,
            **sizes,
            PADDED=self.padded,
            X=len(self.feature_weight),
            BLOCK_E=tile.edges,
            BLOCK_F=tile.features,
            PRECISION=self.precision,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )

    @property
    def _small_blocks(self) -> int:
        return _blocks(self.edges, _SMALL)

    def features(self) -> Tensor:
        """What edges get beside their atoms' scalars, (E, K + 2 D) padded."""
        out = self.at_receiver.new_empty(self.edges, len(self.feature_weight))
        kernels.edge_features[(self._small_blocks,)](
            self.radial, self.vectors, self.direction, self.receiver, self.sender, out, self.edges,
            K=self.num_radial, D=self.num_carried, X=out.shape[1], BLOCK_E=_SMALL,
        )  # fmt: skip
        return out

    def activated(self, features: Tensor) -> Tensor:
        """The formula's silu(p), (E, F) padded."""
        out = features.new_empty(self.edges, self.padded)
        self._launch(
            "activate", _blocks(self.edges, self.tiles["activate"].edges),
            self.at_receiver, self.at_sender, features, self.feature_weight,
            self.receiver, self.sender, out, self.edges,
        )  # fmt: skip
        return out

    def inner(self, activated: Tensor) -> Tensor:
        """The formula's z, (E, F) padded."""
        return torch.addmm(self.bias, activated, self.message_weight.T)

    def collect(self, inner: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of messages and vectors per atom, and W_c m per edge, (E, D), in float32."""
        received = self.vectors.new_empty(self.atoms, self.width)
        columns = len(self.vector_weight)
        parts = _blocks(self.width, self.tiles["collect"].features)
        lengths = self.vectors.new_empty(parts, self.edges, columns)
        self._launch(
            "collect", _blocks(self.atoms, _ATOMS),
            inner, features, self.filter_weight, self.vector_weight, self.receiver_start,
            received, lengths, self.atoms, self.edges, _SCALE,
            L=columns, ATOMS=_ATOMS, WIDTH=self.width,
        )  # fmt: skip
        pushed = self.vectors.new_empty(self.atoms, self.channels, 3)
        carried = self.vectors.new_empty(self.edges, self.num_carried)
        kernels.push[(_blocks(self.atoms, _FEW_ATOMS),)](
            lengths, self.vectors, self.direction, self.sender, self.receiver_start,
            pushed, carried, self.atoms, self.edges, _SCALE,
            PARTS=parts, C=self.channels, D=self.num_carried, L=columns,
            CHANNELS=_columns(self.channels), ATOMS=_FEW_ATOMS, BLOCK_E=_SMALL,
        )  # fmt: skip
        return received, pushed, carried

    def gradients(
        self,
        inner: Tensor,
        features: Tensor,
        activated: Tensor,
        carried: Tensor,
        grad_received: Tensor,
        grad_pushed: Tensor,
    ) -> list[Tensor]:
        """Gradients of the first eight operands; z and silu(p) are overwritten."""
        grad_vector, grad_filter, grad_bias = self._through_messages(
            inner, features, grad_received, grad_pushed
        )
        grad_message = torch.mm(inner.T, activated)
        grad_hidden = torch.mm(inner, self.message_weight, out=activated)
        grad_at_receiver, grad_feature = self._through_hidden(grad_hidden, features)
        grad_at_sender, grad_vectors = self._to_senders(grad_hidden, carried, grad_pushed)
        width, rows = self.width, self.num_radial + 2 * self.num_carried
        return [
            grad_at_receiver,
            grad_at_sender,
            grad_vectors,
            grad_feature[:rows, :width].T,
            grad_message[:width, :width],
            grad_bias[:width],
            grad_filter[: self.num_radial, :width].T,
            grad_vector[: self.channels + self.num_carried, :width],
        ]

    def _through_messages(
        self, inner: Tensor, features: Tensor, grad_received: Tensor, grad_pushed: Tensor
    ) -> tuple[Tensor, ...]:
        """Turn z into its gradient; gradients of W_v above W_c, W_f and w."""
        columns = len(self.vector_weight)
        grad_lengths = features.new_empty(self.edges, columns)
        kernels.length_gradients[(self._small_blocks,)](
            grad_pushed, self.vectors, self.direction, self.receiver, self.sender,
            grad_lengths, self.edges, _SCALE,
            C=self.channels, D=self.num_carried, L=columns, BLOCK_E=_SMALL,
        )  # fmt: skip
        scaled = torch.mul(grad_received, _SCALE, out=features.new_empty(self.atoms, self.width))
        sizes = [columns, len(self.feature_weight), 1]
        block = self.tiles["message_gradients"].edges
        programs = min(_PARTS, _blocks(self.edges, block))
        parts = self.vectors.new_empty(programs, sum(sizes), self.padded)
        self._launch(
            "message_gradients", programs,
            inner, features, self.filter_weight, self.vector_weight, grad_lengths, scaled,
            self.receiver, parts, self.edges, _blocks(self.edges, block * programs) * block,
            L=columns, WIDTH=self.width,
        )  # fmt: skip
        # Autograd does not see kernels write: a second backward pass must find out.
        torch.autograd.graph.increment_version(inner)
        vector, filters, bias = torch.split(parts.sum(0), sizes)
        return vector, filters, bias[0]

    def _through_hidden(self, grad: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the gradient of silu(p) into that of p; gradients of a and W_x."""
        out = features.new_empty(self.atoms, self.width)
        programs = min(_PARTS, _blocks(self.atoms, _ATOMS))
        parts = self.vectors.new_empty(programs, *self.feature_weight.shape)
        self._launch(
            "hidden_gradients", programs,
            grad, self.at_receiver, self.at_sender, features, self.feature_weight,
            self.receiver, self.sender, self.receiver_start, out, parts, self.atoms,
            ATOMS=_ATOMS, WIDTH=self.width,
        )  # fmt: skip
        return out, parts.sum(0)

    def _to_senders(
        self, grad_hidden: Tensor, carried: Tensor, grad_pushed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of s and V from that of p."""
        out = grad_hidden.new_empty(self.atoms, self.width)
        columns = len(self.feature_weight)
        parts = _blocks(self.width, self.tiles["sender_gradients"].features)
        along = self.vectors.new_empty(parts, self.edges if self.num_carried else 0, columns)
        self._launch(
            "sender_gradients", _blocks(self.atoms, _ATOMS),
            grad_hidden, self.feature_weight, self.sender_order, self.sender_start, out, along,
            self.atoms, self.edges, D=self.num_carried, ATOMS=_ATOMS, WIDTH=self.width,
        )  # fmt: skip
        grad_vectors = torch.empty_like(self.vectors)
        if self.num_carried:
            kernels.vector_gradients[(_blocks(self.atoms, _FEW_ATOMS),)](
                along, carried, grad_pushed, self.direction, self.receiver, self.receiver_start,
                self.sender_order, self.sender_start, grad_vectors, self.atoms, self.edges, _SCALE,
                PARTS=parts, K=self.num_radial, C=self.channels, D=self.num_carried,
                X=columns, CHANNELS=_columns(self.channels), ATOMS=_FEW_ATOMS, BLOCK_E=_SMALL,
            )  # fmt: skip
        return out, grad_vectors


def _work(tensors: Sequence[Tensor], dtype: torch.dtype) -> _Work:
    count = len(KernelOperands._fields)
    return _Work(KernelOperands._make(tensors[:count]), EdgeRuns._make(tensors[count:]), dtype)


def _blocks(size: int, block: int) -> int:
    """Blocks that cover so many things; one for none, since a launch wants a program."""
    return max(1, -(-size // block))


def _columns(size: int) -> int:
    """Columns as they are stored: a power of two, and at least what the matrix units take."""
    return max(16, 1 << (size - 1).bit_length())
