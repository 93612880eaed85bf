"""Tables, blocks and kernels that save time are the same function as ordinary operations."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch

from mtlpar.model.egnn import edges as egnn_edges
from mtlpar.model.egnn.edges import PreparedEdges, in_blocks
from mtlpar.model.egnn.messages import MessageWeights, exchange, prepare
from mtlpar.model.egnn.tabled import memory, messages
from mtlpar.model.geometry import Edge, find_runs
from mtlpar.model.passes import forces_come_first, forces_first

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

RADIAL, CHANNELS = 5, 3

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton, which is not installed"
)


class Size(NamedTuple):
    """Of a batch and its features."""

    atoms: int = 7
    edges: int = 40
    width: int = 12


ONE_BLOCK = Size()
# Several groups of atoms, blocks of edges and slices of features, none of them full.
SEVERAL = Size(atoms=37, edges=300, width=150)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Several blocks, the last one not full, and receivers that straddle two of them.
    monkeypatch.setattr(egnn_edges, "CPU_BLOCK_EDGES", 16)
    monkeypatch.setattr(memory, "BLOCK_EDGES", 16)
    monkeypatch.setattr(memory, "BLOCK_COST_EDGES", 3)


def _inputs(
    dtype: torch.dtype = torch.float64, *, carried: int = CHANNELS, size: Size = ONE_BLOCK
) -> tuple[list[torch.Tensor], Edge]:
    """Operands of atoms that come with some vectors, and edges."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        # Divided so that sums over a row stay of size one.
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return (values / math.sqrt(max(1, shape[-1]) / 3)).to(dtype)

    atoms, edges, width = size
    shapes = [
        (atoms, width), (atoms, width), (atoms, carried, 3), (width, RADIAL + 2 * carried),
        (width, width), (width,), (width, RADIAL), (CHANNELS + carried, width),
    ]  # fmt: skip
    # The last atom receives nothing.
    receiver = torch.randint(0, atoms - 1, (edges,), generator=generator).sort().values
    sender = torch.randint(0, atoms, (edges,), generator=generator)
    edge = Edge(sender, receiver, random(edges, 3), random(edges, RADIAL), random(edges, 1))
    return [random(*shape).requires_grad_() for shape in shapes], edge


def _in_blocks(edge: Edge, size: Size = ONE_BLOCK) -> PreparedEdges:
    """As a GPU without kernels takes them."""
    return in_blocks(edge, size.atoms, CHANNELS, forces_come_first())


def _in_table(edge: Edge, size: Size = ONE_BLOCK) -> PreparedEdges:
    """As a CPU takes them."""
    edges = prepare(edge, size.atoms, (size.width, CHANNELS))
    assert edges.table is not None
    assert len(edges.table.blocks) > 1
    return edges


WAYS = {"blocks": _in_blocks, "table": _in_table}


def _exchange(
    tensors: list[torch.Tensor], edges: PreparedEdges, *, recompute: bool
) -> list[torch.Tensor]:
    """Sums by the numbers of the atoms, whatever order a table has them in."""
    atoms = [edges.to_rows(values) for values in tensors[:3]]
    found = exchange(*atoms, MessageWeights(*tensors[3:]), edges, recompute=recompute)
    return [edges.of_atoms(values) for values in found]


def _run(
    tensors: list[torch.Tensor],
    edges: PreparedEdges,
    *,
    recompute: bool = False,
    autocast: torch.dtype | None = None,
) -> Iterator[torch.Tensor]:
    """Outputs, then the gradients of a sum over them with fixed random weights."""
    with torch.autocast(tensors[0].device.type, autocast, enabled=autocast is not None):
        outputs = _exchange(tensors, edges, recompute=recompute)
    # Outside of autocast, where training differentiates.
    generator = torch.Generator().manual_seed(1)
    mixed = sum(
        (torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out) * out).sum()
        for out in outputs
    )
    yield from outputs
    yield from torch.autograd.grad(mixed, tensors)


@pytest.fixture(params=["all is kept", "z is kept"])
def _kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Much and little memory for what edges leave in a table."""
    if request.param == "z is kept":
        monkeypatch.setattr(messages, "KEPT_NUMBERS", 0)


@pytest.mark.usefixtures("_kept")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("carried", [0, CHANNELS])
@pytest.mark.parametrize("way", WAYS)
def test_blocks_and_tables_give_the_values_and_gradients_of_ordinary_operations(
    way: str, recompute: bool, carried: int
) -> None:
    # No vectors is what the first layer has.
    tensors, edge = _inputs(carried=carried)
    fused = _run(tensors, WAYS[way](edge), recompute=recompute)
    for got, expected in zip(fused, _run(tensors, PreparedEdges(edge)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.long
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
            PreparedEdges(edge._replace(radial=radial)),
            recompute=True,
        )
        return (received**2).sum() + (pushed**2).sum()

    assert torch.autograd.gradgradcheck(total, [edge.radial.clone().requires_grad_()])


def _force_pass(
    tensors: list[torch.Tensor], edge: Edge, *, way: str | None, recompute: bool
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """First gradients by atoms and geometry, and a number made of them and of the sums."""
    radial, direction = (one.clone().requires_grad_() for one in (edge.radial, edge.direction))
    edge = edge._replace(radial=radial, direction=direction)
    at_receiver, at_sender, vectors, *_ = tensors
    size = Size(len(at_receiver), width=at_receiver.shape[1])
    with forces_first():
        edges = PreparedEdges(edge) if way is None else WAYS[way](edge, size)
        outputs = _exchange(tensors, edges, recompute=recompute)
        # Not linear, so that the gradients of the sums depend on the sums, as in a network.
        total = sum((out.tanh() ** 2).sum() for out in outputs)
        by = [at_receiver, at_sender, *([vectors] if vectors.numel() else []), radial, direction]
        first = list(torch.autograd.grad(total, by, create_graph=True))
    generator = torch.Generator().manual_seed(2)
    mixed = total + sum(
        (torch.randn(one.shape, generator=generator, dtype=one.dtype) * one.sin()).sum()
        for one in first
    )
    return first, mixed


@pytest.mark.usefixtures("_kept")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("carried", [0, CHANNELS])
@pytest.mark.parametrize("way", WAYS)
def test_blocks_and_tables_have_the_second_derivatives_of_ordinary_operations(
    way: str, recompute: bool, carried: int
) -> None:
    # Every operand moves at once and the number bends with each of them: a term of the product
    # rule that was left out, or taken twice, changes the gradient of some operand.
    tensors, edge = _inputs(carried=carried)
    by = [tensor for tensor in tensors if tensor.numel()]
    got, expected = (
        _force_pass(tensors, edge, way=each, recompute=recompute) for each in (way, None)
    )
    for one, other in zip(got[0], expected[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(got[1], by), torch.autograd.grad(expected[1], by), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_second_derivatives_are_those_of_finite_differences(way: str) -> None:
    # Needs no ordinary operations to be right.
    tensors, edge = _inputs(size=Size(atoms=3, edges=7, width=4))

    def mixed(*moved: torch.Tensor) -> torch.Tensor:
        return _force_pass(list(moved), edge, way=way, recompute=False)[1]

    assert torch.autograd.gradcheck(mixed, tensors)


@pytest.mark.parametrize("way", WAYS)
def test_a_third_derivative_is_refused(way: str) -> None:
    tensors, edge = _inputs()
    _, mixed = _force_pass(tensors, edge, way=way, recompute=False)
    (by_weight,) = torch.autograd.grad(mixed, tensors[4], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        by_weight.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_few_bits_and_answers_in_float32(dtype: torch.dtype) -> None:
    tensors, edge = _inputs(torch.float32)
    exact = list(_run(tensors, _in_blocks(edge)))
    rounded = _run(tensors, _in_blocks(edge), autocast=dtype)
    for got, expected in zip(rounded, exact, strict=True):
        assert got.dtype == torch.float32
        error = (got - expected).norm() / expected.norm()
        # Rounded, so not equal; but bfloat16 has eight bits.
        assert 1e-5 < error < 2e-2


def test_a_pass_for_some_weights_leaves_nothing_for_a_pass_without_forces() -> None:
    # What a pass hands on from forces to sums must not reach a later pass that has no forces.
    tensors, edge = _inputs()
    first, mixed = _force_pass(tensors, edge, way="table", recompute=False)
    torch.autograd.grad(first[0].sum(), tensors[0], retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(mixed, tensors[4], retain_graph=True)[0]
    _, expected = _force_pass(tensors, edge, way=None, recompute=False)
    torch.testing.assert_close(again, torch.autograd.grad(expected, tensors[4])[0])


def test_rounded_products_take_blocks_on_a_cpu_too() -> None:
    _, edge = _inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        edges = prepare(edge, ONE_BLOCK.atoms, (ONE_BLOCK.width, CHANNELS))
    assert edges.table is None
    assert edges.blocks is not None


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_kept_where_no_gradient_is_wanted(way: str) -> None:
    tensors, edge = _inputs()
    with torch.no_grad():
        received, _ = _exchange(tensors, WAYS[way](edge), recompute=False)
    assert received.grad_fn is None
    expected = next(_run(tensors, PreparedEdges(edge)))
    torch.testing.assert_close(received, expected.detach(), rtol=1e-12, atol=1e-12)


def _to_kernels(
    tensors: list[torch.Tensor], edge: Edge
) -> tuple[list[torch.Tensor], PreparedEdges]:
    """The same in float32, on a GPU if there is one, with what sends it through the kernels."""
    there = [tensor.detach().to(DEVICE, torch.float32).requires_grad_() for tensor in tensors]
    sender, receiver = edge.sender.to(DEVICE), edge.receiver.to(DEVICE)
    rest = (values.to(DEVICE, torch.float32) for values in edge[2:5])
    runs = find_runs(sender, receiver, len(tensors[0]))
    return there, PreparedEdges(Edge(sender, receiver, *rest), runs)


def _relative_errors(got: Iterator[torch.Tensor], expected: Iterator[torch.Tensor]) -> list[float]:
    pairs = [(a.detach().cpu().double(), b.detach()) for a, b in zip(got, expected, strict=True)]
    return [float((a - b).norm() / (b.norm() if b.numel() and b.any() else 1)) for a, b in pairs]


@needs_triton
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("carried", [0, CHANNELS])
@pytest.mark.parametrize("size", [ONE_BLOCK, SEVERAL, Size(edges=0)], ids=str)
def test_kernels_give_the_values_and_gradients_of_ordinary_operations(
    recompute: bool, carried: int, size: Size
) -> None:
    # A mask that is one off, or a sum that ends with its block, shows where nothing is full.
    tensors, edge = _inputs(carried=carried, size=size)
    got = _run(*_to_kernels(tensors, edge), recompute=recompute)
    errors = _relative_errors(got, _run(tensors, PreparedEdges(edge)))
    assert max(errors) < 2e-6, errors


@needs_triton
def test_kernels_round_under_autocast_as_blocks_do() -> None:
    # float16, because the interpreter multiplies bfloat16 as if it were whole numbers.
    tensors, edge = _inputs(size=SEVERAL)
    got = list(_run(*_to_kernels(tensors, edge), autocast=torch.float16))
    assert {tensor.dtype for tensor in got} == {torch.float32}
    errors = _relative_errors(iter(got), _run(tensors, PreparedEdges(edge)))
    assert min(errors) > 1e-5
    assert max(errors) < 5e-3, errors


@needs_triton
def test_kernels_give_the_same_bits_twice() -> None:
    # Sums by atomic additions would not, on a GPU.
    there = _to_kernels(*_inputs(size=SEVERAL))
    first, second = (list(_run(*there)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@needs_triton
def test_a_second_backward_pass_through_kernels_is_refused() -> None:
    # They write over what they kept: the second gradient would be another one, without a word.
    tensors, edges = _to_kernels(*_inputs(size=SEVERAL))
    at_receiver, at_sender, vectors, *weights = tensors
    received, _ = exchange(
        at_receiver, at_sender, vectors, MessageWeights(*weights), edges, recompute=False
    )
    total = received.sum()
    torch.autograd.grad(total, tensors, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(total, tensors)
