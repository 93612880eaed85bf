"""Linear layers of any width at the speed of round ones.

The matrix units of a GPU want rows that start at multiples of 16 bytes; of a width such as the
paper's 866 they make less than half of their rate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

_MULTIPLE = 8


class Linear(nn.Linear):
    """`torch.nn.Linear`; on a GPU its product is padded where a width is no multiple of eight."""

    def forward(self, values: Tensor) -> Tensor:
        """Map (A, inputs) to (A, outputs)."""
        is_round = self.in_features % _MULTIPLE == 0 and self.out_features % _MULTIPLE == 0
        if is_round or not values.is_cuda or torch.compiler.is_compiling():
            return super().forward(values)
        return padded_linear(values, self.weight, self.bias)


def padded_linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` with rows padded by zeros.

    Args:
        values: (A, inputs).
        weight: (outputs, inputs).
        bias: (outputs,) or none.
    """
    dtype = product_dtype(values)
    outputs, inputs = (_round_up(size) for size in weight.shape)
    padded = linear(
        _pad(values, (len(values), inputs), dtype),
        _pad(weight, (outputs, inputs), dtype),
        None if bias is None else _pad(bias, (outputs,), dtype),
    )
    return padded[:, : len(weight)]


def product_dtype(values: Tensor) -> torch.dtype:
    """Type in which products of these values are computed: their own, or that of autocast."""
    device_type = values.device.type
    enabled = torch.is_autocast_enabled(device_type)
    return torch.get_autocast_dtype(device_type) if enabled else values.dtype


def _round_up(size: int) -> int:
    return -(-size // _MULTIPLE) * _MULTIPLE


def _pad(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return _CastAndPad.apply(tensor, shape, dtype)  # type: ignore[no-untyped-call,no-any-return]


class _CastAndPad(torch.autograd.Function):
    """Arguments: a tensor, its padded shape and type. Two kernels, where pad and cast take four."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        ctx.inside, ctx.dtype = tuple(slice(0, size) for size in tensor.shape), tensor.dtype
        out = tensor.new_zeros(shape, dtype=dtype)
        out[ctx.inside] = tensor
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad[ctx.inside].to(ctx.dtype), None, None
