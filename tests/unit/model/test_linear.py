"""A linear layer whose product is padded is the same function."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from mtlpar.model.linear import padded_linear


def _operands(dtype: torch.dtype, *, bias: bool) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 11), (9, 11), (9,)]
    found = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    return [*found[:2], found[2] if bias else None]


@pytest.mark.parametrize("bias", [False, True])
def test_padding_changes_no_value_and_no_derivative(bias: bool) -> None:
    # Second derivatives too: conservative forces are trained through them.
    operands = _operands(torch.float64, bias=bias)
    torch.testing.assert_close(padded_linear(*operands), linear(*operands), rtol=1e-14, atol=1e-14)
    assert torch.autograd.gradcheck(padded_linear, operands)
    assert torch.autograd.gradgradcheck(padded_linear, operands)


def test_padding_rounds_as_autocast_does() -> None:
    operands = _operands(torch.float32, bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = padded_linear(*operands), linear(*operands)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=2**-8, atol=0)
    gradients = torch.autograd.grad(got.float().square().sum(), operands)
    wanted = torch.autograd.grad(expected.float().square().sum(), operands)
    for gradient, want in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, want, rtol=2**-6, atol=2**-6)
