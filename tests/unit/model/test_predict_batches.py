"""Batches are predicted as the network's own operations would, whatever computes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from networks import ENCODERS, FORCES, make_network

from mtlpar.core.ase_structures import structure_batch
from mtlpar.graph.collate import collate
from mtlpar.model.egnn import inference, steps
from mtlpar.model.multitask import Segment
from mtlpar.model.predict import predict_batches

SLAB = fcc111("Al", (1, 2, 2), vacuum=4.0)
STRUCTURES = [
    molecule("CH3CH2OH"),
    bulk("MgO", "rocksalt", a=4.2),
    # Atoms without neighbours lie in rows of their own.
    Atoms("H"),
    SLAB,
    molecule("CH4"),
]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("forces", FORCES)
@pytest.mark.parametrize(
    ("energy", "isolated"), [("sum", "learned"), ("mean", "learned"), ("sum", "reference")]
)
# All edges in one block, and in many: then atoms lie in another order than in the batch.
@pytest.mark.parametrize("block_edges", [4096, 30])
def test_predictions_are_those_of_the_networks_own_operations(
    encoder: str,
    forces: str,
    energy: str,
    isolated: str,
    block_edges: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inference, "_BLOCK_EDGES", block_edges)
    # Messages of the larger of two batches are computed again, those of the smaller are kept.
    monkeypatch.setattr(steps, "_KEPT_BYTES", 400_000)
    network = make_network(encoder, forces, energy, isolated_atoms=isolated).double().eval()
    rattled = [atoms.copy() for atoms in STRUCTURES]
    for seed, atoms in enumerate(rattled):
        atoms.rattle(0.1, seed=seed)
    structures = structure_batch(rattled)
    graph = network.settings.graph
    parts = list(
        predict_batches(network, structures, branch="a", graph=graph, batch_atoms=12, pool=True)
    )
    assert len(parts) > 1
    for part in parts:
        mine = structures.slice(part.structures.start, part.structures.stop)
        with torch.no_grad():
            expected = network(
                collate(mine, graph, dtype=torch.float64),
                [Segment("a", 0, len(mine))],
                pool=True,
            )
        assert expected.pooled is not None
        pairs = {
            "energy_per_atom": expected.energy_per_atom,
            "forces": expected.forces,
            "stress": expected.stress,
            "atom_energies": expected.atom_energies,
            "descriptors": expected.pooled.descriptors,
            "last_features": expected.pooled.last,
        }
        assert pairs.keys() | {"structures"} == {*part._fields}
        for name, value in pairs.items():
            found = getattr(part, name)
            assert (found is None) == (value is None)
            if value is not None:
                np.testing.assert_allclose(found, value.numpy(), rtol=0, atol=1e-12)
