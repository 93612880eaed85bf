"""Padding that CUDA graphs need changes nothing, and replays are the passes that were recorded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from cuda_graphs import imitate_cuda_graphs
from networks import ENCODERS, make_network

from mtlpar.core.ase_structures import structure_batch
from mtlpar.graph.batch import GraphBatch
from mtlpar.graph.collate import collate
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.cuda_graphs import pad_edges, replay_passes
from mtlpar.model.geometry import edge_vectors
from mtlpar.model.multitask import MultiTaskModel, Segment

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real ones on a GPU."""
    if DEVICE == "cpu":
        imitate_cuda_graphs(monkeypatch)


def _batch(dtype: torch.dtype, names: tuple[str, ...] = ("CH3CONH2", "CH4", "C6H6")) -> GraphBatch:
    structures = [*map(molecule, names), bulk("CuO", "rocksalt", a=4.2)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
        atoms.numbers = np.where(atoms.numbers > 8, 6, atoms.numbers)
    return collate(structure_batch(structures), GraphSettings(), dtype=dtype)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padded_batches_have_the_same_features_and_gradients(encoder: str) -> None:
    # An edge of the padding that reached a real atom would show in both.
    network = make_network(encoder).double().encoder
    batch = _batch(torch.float64)
    vector = edge_vectors(batch)
    scalars = network.species(batch.z).detach().requires_grad_()
    arguments = (scalars, batch.z, batch.edge_index, vector)
    padded = pad_edges(*arguments, cutoff_angstrom=network.basis.cutoff)
    assert len(padded[0]) > len(scalars)
    assert len(padded[3]) > len(vector)

    weights = [w for name, w in network.named_parameters() if not name.startswith("species")]
    found = []
    for inputs in (arguments, padded):
        outputs = [output[: len(scalars)] for output in network.encode(*inputs)]
        total = sum((output.cumsum(0) ** 2).sum() for output in outputs)
        found.append([*outputs, *torch.autograd.grad(total, [scalars, *weights])])
    for got, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(
            got, expected, rtol=1e-12, atol=1e-12 * float(expected.detach().abs().max())
        )


def test_padding_leads_to_few_sizes_and_little_waste() -> None:
    rng = np.random.default_rng(0)
    sizes = set()
    for _ in range(200):
        edges = int(rng.normal(40_000, 3_000))
        atoms = edges // 20
        scalars, z = torch.zeros(atoms, 1), torch.zeros(atoms, dtype=torch.int64)
        owner = torch.arange(edges) * atoms // edges
        padded = pad_edges(
            scalars, z, torch.stack([owner, owner]), torch.ones(edges, 3), cutoff_angstrom=5.0
        )
        more_edges, more_atoms = len(padded[3]), len(padded[1])
        sizes.add((more_atoms, more_edges))
        assert edges <= more_edges <= 1.07 * edges
        assert atoms <= more_atoms <= 1.15 * atoms
        # Sorted by receiver, and no atom with many more edges than others.
        counts = torch.bincount(padded[2][1], minlength=more_atoms)
        assert (padded[2][1].diff() >= 0).all()
        assert counts.max() <= 33
    assert len(sizes) <= 32


def test_graphs_of_conservative_forces_are_refused() -> None:
    with pytest.raises(ValueError, match="second derivatives"):
        replay_passes(make_network(forces="conservative"))


def _gradients(network: MultiTaskModel, batch: GraphBatch) -> list[torch.Tensor]:
    """Predictions and the gradients of their squares."""
    half = len(batch.num_atoms) // 2
    segments = [Segment("a", 0, half), Segment("b", half, len(batch.num_atoms))]
    prediction = network(batch, segments)
    total = prediction.energy_per_atom.square().sum() + prediction.forces.square().sum()
    network.zero_grad()
    total.backward()
    weights = [weight.grad.clone() for weight in network.parameters()]
    return [prediction.energy_per_atom.detach(), prediction.forces.detach(), *weights]


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("encoder", ENCODERS)
def test_replayed_passes_are_those_of_the_model(encoder: str) -> None:
    batches = [_batch(torch.float32, names).to(DEVICE) for names in (("H2O",), ("C6H6", "CH4"), ())]
    network = make_network(encoder).to(DEVICE)
    expected = [_gradients(network, batch) for batch in batches]
    replay_passes(network)
    # Twice: the first use of a size records it. In between, other sizes use the same memory.
    for _ in range(2):
        for batch, want in zip(batches, expected, strict=True):
            for got, wanted in zip(_gradients(network, batch), want, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("graphs")
def test_gradients_of_several_passes_add_up() -> None:
    # Both backward passes write to the same addresses: a sum of two views of them is no sum.
    batches = [_batch(torch.float32, names).to(DEVICE) for names in (("H2O",), ("C6H6", "CH4"))]
    network = make_network().to(DEVICE)
    replay_passes(network)
    apart = [_gradients(network, batch)[2:] for batch in batches]
    network.zero_grad(set_to_none=True)
    for batch in batches:
        stop = len(batch.num_atoms)
        segments = [Segment("a", 0, stop // 2), Segment("b", stop // 2, stop)]
        prediction = network(batch, segments)
        (prediction.energy_per_atom.square().sum() + prediction.forces.square().sum()).backward()
    for weight, one, other in zip(network.parameters(), *apart, strict=True):
        torch.testing.assert_close(weight.grad, one + other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("graphs")
def test_a_second_forward_pass_before_the_backward_pass_is_refused() -> None:
    network = make_network().to(DEVICE)
    replay_passes(network)
    batch = _batch(torch.float32).to(DEVICE)
    segments = [Segment("a", 0, len(batch.num_atoms))]
    first = network(batch, segments).forces.sum()
    network(batch, segments)
    with pytest.raises(RuntimeError, match="one batch at a time"):
        first.backward()


@pytest.mark.usefixtures("graphs")
def test_a_second_backward_pass_is_refused() -> None:
    # The first one wrote over what the forward pass kept.
    network = make_network().to(DEVICE)
    replay_passes(network)
    batch = _batch(torch.float32).to(DEVICE)
    total = network(batch, [Segment("a", 0, len(batch.num_atoms))]).forces.sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        total.backward()


@pytest.mark.usefixtures("graphs")
def test_passes_follow_the_weights_that_the_optimizer_changes() -> None:
    # A recording that had copied them would train on its first step's weights for ever.
    batch = _batch(torch.float32).to(DEVICE)
    network, other = make_network().to(DEVICE), make_network().to(DEVICE)
    replay_passes(network)
    losses = []
    for model in (network, other):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(4):
            energies, *_ = _gradients(model, batch)
            losses.append(energies)
            optimizer.step()
    for got, expected in zip(losses[:4], losses[4:], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(losses[0], losses[3])


@pytest.mark.usefixtures("graphs")
def test_a_size_too_many_is_computed_without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtlpar.model.cuda_graphs._MOST_GRAPHS", 1)
    network = make_network().to(DEVICE)
    batches = [_batch(torch.float32, names).to(DEVICE) for names in ((), ("C6H6", "CH4"))]
    expected = [_gradients(network, batch) for batch in batches]
    replay_passes(network)
    for batch, want in zip(batches, expected, strict=True):
        for got, wanted in zip(_gradients(network, batch), want, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("graphs")
def test_a_failed_recording_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", fail)
    network = make_network().to(DEVICE)
    replay_passes(network)
    with pytest.raises(RuntimeError, match=r"train\.cuda_graphs=false.*not permitted"):
        _gradients(network, _batch(torch.float32).to(DEVICE))
