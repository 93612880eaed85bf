"""The message kernel that saves time and memory is the same function as ordinary operations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mtlpar.model import messages
from mtlpar.model.geometry import Edge
from mtlpar.model.messages import MessageWeights, exchange

ATOMS, EDGES, WIDTH, RADIAL, CHANNELS = 7, 40, 12, 5, 3


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Several blocks, the last one not full, and receivers that straddle two of them.
    monkeypatch.setitem(messages._BLOCK_EDGES, "cpu", 16)


def _inputs(
    dtype: torch.dtype = torch.float64, *, carried: int = CHANNELS
) -> tuple[list[torch.Tensor], Edge]:
    """Operands of atoms that come with some vectors, and edges."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    shapes = [
        (ATOMS, WIDTH), (ATOMS, WIDTH), (ATOMS, carried, 3), (WIDTH, RADIAL + 2 * carried),
        (WIDTH, WIDTH), (WIDTH,), (WIDTH, RADIAL), (CHANNELS + carried, WIDTH),
    ]  # fmt: skip
    # The last atom receives nothing.
    receiver = torch.randint(0, ATOMS - 1, (EDGES,), generator=generator).sort().values
    sender = torch.randint(0, ATOMS, (EDGES,), generator=generator)
    edge = Edge(sender, receiver, random(EDGES, 3), random(EDGES, RADIAL), random(EDGES, 1))
    return [random(*shape).requires_grad_() for shape in shapes], edge


def _run(
    tensors: list[torch.Tensor],
    edge: Edge,
    *,
    plain: bool,
    recompute: bool = False,
    autocast: torch.dtype | None = None,
) -> Iterator[torch.Tensor]:
    """Outputs, then the gradients of a sum over them with fixed random weights."""
    if plain:
        edge = edge._replace(radial=edge.radial.clone().requires_grad_())
    at_receiver, at_sender, vectors, *weights = tensors
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        outputs = exchange(
            at_receiver, at_sender, vectors, MessageWeights(*weights), edge, recompute=recompute
        )
    # Outside of autocast, where training differentiates.
    generator = torch.Generator().manual_seed(1)
    mixed = sum(
        (torch.randn(out.shape, generator=generator, dtype=out.dtype) * out).sum()
        for out in outputs
    )
    yield from outputs
    yield from torch.autograd.grad(mixed, tensors)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("carried", [0, CHANNELS])
def test_blocks_give_the_values_and_gradients_of_ordinary_operations(
    recompute: bool, carried: int
) -> None:
    # No vectors is what the first layer has.
    tensors, edge = _inputs(carried=carried)
    fused = _run(tensors, edge, plain=False, recompute=recompute)
    for got, expected in zip(fused, _run(tensors, edge, plain=True), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_ordinary_operations_can_be_differentiated_twice_with_checkpointing_too() -> None:
    # Training on conservative forces needs this: a kernel that dropped a term would pass every
    # test of values and first gradients.
    tensors, edge = _inputs()

    def total(radial: torch.Tensor) -> torch.Tensor:
        at_receiver, at_sender, vectors, *weights = tensors
        received, pushed = exchange(
            at_receiver,
            at_sender,
            vectors,
            MessageWeights(*weights),
            edge._replace(radial=radial),
            recompute=True,
        )
        return (received**2).sum() + (pushed**2).sum()

    assert torch.autograd.gradgradcheck(total, [edge.radial.clone().requires_grad_()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_few_bits_and_answers_in_float32(dtype: torch.dtype) -> None:
    tensors, edge = _inputs(torch.float32)
    exact = list(_run(tensors, edge, plain=False))
    rounded = _run(tensors, edge, plain=False, autocast=dtype)
    for got, expected in zip(rounded, exact, strict=True):
        assert got.dtype == torch.float32
        error = (got - expected).norm() / expected.norm()
        # Rounded, so not equal; but bfloat16 has eight bits.
        assert 1e-5 < error < 2e-2


def test_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    tensors, edge = _inputs()
    at_receiver, at_sender, vectors, *weights = tensors
    with torch.no_grad():
        received, _ = exchange(
            at_receiver, at_sender, vectors, MessageWeights(*weights), edge, recompute=False
        )
    assert received.grad_fn is None
    expected = next(_run(tensors, edge, plain=True))
    torch.testing.assert_close(received, expected.detach(), rtol=1e-12, atol=1e-12)
