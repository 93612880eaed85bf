"""A conservative network trained by what is written out is that of ordinary operations."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk, molecule
from networks import ENCODERS, make_network
from torch import Tensor

from mtlpar.core.ase_structures import structure_batch
from mtlpar.graph.batch import GraphBatch
from mtlpar.graph.collate import collate
from mtlpar.model import geometry
from mtlpar.model.egnn import messages
from mtlpar.model.multitask import MultiTaskModel, Segment


def _batch() -> GraphBatch:
    """A molecule, one atom without neighbours, and a strained crystal, of two branches."""
    crystal = bulk("MgO", "rocksalt", a=4.1, cubic=True)
    crystal.rattle(0.05, seed=3)
    structures = [molecule("CH3OH"), molecule("H"), crystal]
    network = make_network(forces="conservative")
    return collate(structure_batch(structures), network.settings.graph, dtype=torch.float64)


SEGMENTS = (Segment("a", 0, 2), Segment("b", 2, 3))


def _loss(network: MultiTaskModel, batch: GraphBatch) -> Tensor:
    """Something of energies, forces and stress, bent so that no derivative is constant."""
    found = network(batch, SEGMENTS)
    assert found.stress is not None
    stress = found.stress[batch.pbc.any(dim=1)]
    return found.energy_per_atom.sin().sum() + found.forces.tanh().sum() + stress.exp().sum()


def _gradients(network: MultiTaskModel, batch: GraphBatch) -> list[Tensor]:
    parameters = list(network.parameters())
    found = torch.autograd.grad(_loss(network, batch), parameters, materialize_grads=True)
    return [one.detach() for one in found]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_weights_get_the_gradients_of_ordinary_operations(
    monkeypatch: pytest.MonkeyPatch, encoder: str, activation_checkpointing: bool
) -> None:
    # Gradients through the sums' gradients pass from layer to layer: messages that were right one
    # layer at a time could still hand on a wrong one. The geometry's own are of all encoders.
    options = {"activation_checkpointing": activation_checkpointing, "layers": 3}
    network = make_network(encoder, "conservative", **options).double()
    batch = _batch()
    blocked = _gradients(network, batch)
    for module in (messages, geometry):
        monkeypatch.setattr(module, "forces_come_first", lambda: None)
    ordinary = _gradients(network, batch)
    assert any(float(one.abs().max()) > 0 for one in ordinary)
    for one, other in zip(blocked, ordinary, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_loss_can_be_differentiated_twice_over_as_gradient_accumulation_does() -> None:
    # State that a backward pass left behind would change the next one.
    network, batch = make_network(forces="conservative").double(), _batch()
    first, second = _gradients(network, batch), _gradients(network, batch)
    loss = _loss(network, batch)
    for _ in range(2):
        loss.backward(retain_graph=True)
    for one, again, parameter in zip(first, second, network.parameters(), strict=True):
        torch.testing.assert_close(one, again, rtol=0, atol=0)
        torch.testing.assert_close(parameter.grad, 2 * one, rtol=1e-12, atol=1e-12)
