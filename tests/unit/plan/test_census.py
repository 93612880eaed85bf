"""Counts of a training step, against PyTorch's own counter and against counting by hand."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mtlpar.graph.collate import collate
from mtlpar.model.egnn import encoder
from mtlpar.model.egnn.edges import in_blocks
from mtlpar.model.multitask import MultiTaskModel, Segment, parameter_counts
from mtlpar.model.settings import EgnnSettings, HeadSettings, ModelSettings
from mtlpar.plan import census as module
from mtlpar.plan.census import BatchShape, take_census
from mtlpar.plan.synthetic import make_structures

SMALL = ModelSettings(
    encoder=EgnnSettings(width=24, layers=2, vector_channels=3, radial_basis=5),
    head=HeadSettings(width=20, layers=2),
)
# Wide enough for the products of encoder and heads to be bound by arithmetic.
WIDE = ModelSettings(encoder=EgnnSettings(width=256, layers=2), head=HeadSettings(width=192))


def _real_step(settings: ModelSettings, structures: int, atoms: int):
    """A real model and batch; sizes that no probe of the census has."""
    model = MultiTaskModel(settings, ("first", "second"), seed=1)
    batch = collate(make_structures(structures, atoms=atoms, seed=3), settings.graph)
    half = structures // 2
    segments = [Segment("first", 0, half), Segment("second", half, structures)]

    def run() -> None:
        prediction = model(batch, segments)
        (prediction.energy_per_atom.abs().sum() + prediction.forces.abs().sum()).backward()

    return BatchShape(2, structures, structures * atoms, batch.edge_index.shape[1]), run


@pytest.mark.parametrize("settings", [SMALL, WIDE], ids=["small", "wide"])
def test_arithmetic_is_what_pytorch_counts_on_real_data(settings, monkeypatch) -> None:
    # A table's places depend on where atoms lie, which a plan cannot know: it counts blocks.
    monkeypatch.setattr(
        encoder, "prepare", lambda edge, atoms, sizes: in_blocks(edge, atoms, sizes[1])
    )
    # All products, also those that are bound by memory: FlopCounterMode does not tell them apart.
    monkeypatch.setattr(module, "_COMPUTE_BOUND_FLOP_PER_BYTE", 0.0)
    counted = take_census.__wrapped__(settings)
    shape, run = _real_step(settings, structures=7, atoms=11)
    with FlopCounterMode(display=False) as counter:
        run()
    assert counted.flops.of(shape) == pytest.approx(counter.get_total_flops(), rel=1e-9)


@pytest.mark.parametrize("probe", [(2, 90, 21, 3), (1, 8, 300, 5)], ids=["small", "large"])
def test_counts_follow_the_formula(probe) -> None:
    # Batches that the census was not fitted to. Had a block of edges counted all atoms instead of
    # those that its edges join, traffic would grow with atoms times edges.
    shape, counts = module._DummyModel(SMALL).count(*probe)
    counted = take_census(SMALL)
    for quantity in ("flops", "memory_bytes", "kernels"):
        expected = getattr(counts, quantity)
        assert getattr(counted, quantity).of(shape) == pytest.approx(expected, rel=1e-9), quantity
    # The largest sum of what is alive is not where it was in every batch.
    assert counted.activation_bytes.of(shape) == pytest.approx(counts.activation_bytes, rel=0.1)


def test_an_edge_costs_one_square_product_per_layer() -> None:
    # By hand: a message is one F x F product per edge; 2 F^2 operations forward, twice that
    # backward. Narrow products (radial functions, vectors) are bound by memory.
    width, layers = WIDE.encoder.width, WIDE.encoder.layers
    assert take_census(WIDE).flops.coefficients[4] == pytest.approx(6 * layers * width**2)


def test_activations_cover_what_the_backward_pass_keeps() -> None:
    shape, run = _real_step(WIDE, structures=40, atoms=15)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    parameters = 4 * (
        take_census(WIDE).encoder_parameters + 2 * take_census(WIDE).branch_parameters
    )
    saved = sum(kept.values()) - parameters
    predicted = take_census(WIDE).activation_bytes.of(shape)
    # What is kept, plus what the largest operation works on: the buffers of one block of edges,
    # which are much beside so small a batch.
    assert saved < predicted < 1.7 * saved


def test_parameters_are_those_of_the_model() -> None:
    counts = parameter_counts(MultiTaskModel(SMALL, ("only",), seed=0))
    counted = take_census(SMALL)
    assert (counted.encoder_parameters, counted.branch_parameters) == (
        counts["encoder"],
        counts["only"],
    )
