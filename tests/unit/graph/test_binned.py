"""The search for accelerators finds the edges of the one for CPUs, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from devices import CPU, DEVICES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_atoms import random_atoms

from mtlpar.core.ase_structures import structure_batch
from mtlpar.core.structures import StructureBatch
from mtlpar.graph import binned
from mtlpar.graph.binned import binned_neighbor_list, nearest_on_device
from mtlpar.graph.collate import collate
from mtlpar.graph.neighbors import nearest, neighbor_list
from mtlpar.graph.settings import GraphSettings


def assert_same_edges(
    batch: StructureBatch, options: GraphSettings, device: torch.device = CPU
) -> int:
    expected = neighbor_list(batch, options)
    found = binned_neighbor_list(batch, options, device)
    np.testing.assert_array_equal(found.receiver.cpu(), expected.receiver)
    np.testing.assert_array_equal(found.sender.cpu(), expected.sender)
    np.testing.assert_array_equal(found.shift.T.cpu(), expected.shift)
    return len(expected.receiver)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    structures=st.lists(random_atoms(), max_size=6),
    limit=st.sampled_from([None, 1, 5]),
    at_once=st.sampled_from([1, 100, 1 << 20]),
)
def test_edges_are_those_of_the_search_on_a_cpu(
    structures: list[Atoms], limit: int | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = GraphSettings(cutoff_angstrom=4.0, max_neighbors=limit)
    batch = structure_batch(structures) if structures else StructureBatch.concatenate([])
    with monkeypatch.context() as patch:
        patch.setattr(binned, "_BINS_AT_ONCE", at_once)
        assert_same_edges(batch, options)


LARGE = bulk("MgO", "rocksalt", a=4.2).repeat((9, 8, 7))
LARGE.rattle(0.1, seed=0)
# Some atoms outside, none of the vectors at right angles to another.
LARGE.positions += [40.0, -3.0, 11.0]
CASES = {
    # Several bins along each vector, of which the outermost see each other.
    "crystal": LARGE,
    # The same without images: bins along a direction that does not repeat.
    "cluster": Atoms(LARGE, pbc=False),
    "slab": Atoms(LARGE, pbc=(True, False, True)),
    "atoms at the same place": Atoms("H3", np.zeros((3, 3))),
    "a planar molecule": molecule("C6H6"),
    # As many bins as fit the cutoff would be more than integers can count.
    "atoms far from each other": Atoms("H3", [[0, 0, 0], [1e7, 1e7, 1e7], [1e7, 1e7, 1e7 - 1]]),
    # Whole numbers: every distance to the next atoms is the cutoff.
    "atoms at the cutoff": Atoms("C", cell=[4.0, 4.0, 4.0], pbc=True).repeat(3),
    # A hair below a multiple of the cell, which rounds to the next image.
    "atoms at a face": Atoms("H2", [[-1e-17, 0, 0], [1.0, 0, 0]], cell=np.eye(3) * 9, pbc=True),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_edges_of_large_and_of_odd_structures_are_the_same(name: str, device: torch.device) -> None:
    atoms = CASES[name]
    # A second structure: bins of one are not those of the other.
    batch = structure_batch([atoms, molecule("H2O")])
    count = assert_same_edges(batch, GraphSettings(cutoff_angstrom=4.0), device)
    assert count > 6 or name == "atoms at the cutoff"


def test_an_atom_that_is_nowhere_has_no_neighbours_and_takes_none_from_others() -> None:
    batch = structure_batch([molecule("H2O"), molecule("H2O")])
    batch.positions[4] = np.nan
    assert assert_same_edges(batch, GraphSettings()) == 6 + 2


def test_the_nearest_are_those_of_the_search_on_a_cpu() -> None:
    rng = np.random.default_rng(0)
    receiver = np.sort(rng.integers(0, 30, 400))
    # Few values, so that most places are decided between equals.
    distance = rng.integers(0, 5, 400).astype(np.float64)
    for count in (1, 3, 50):
        found = nearest_on_device(torch.from_numpy(receiver), torch.from_numpy(distance), count)
        assert found.tolist() == np.flatnonzero(nearest(receiver, distance, count)).tolist()


def test_a_cell_that_spans_nothing_is_refused() -> None:
    batch = structure_batch([Atoms("C", cell=np.eye(3) * 3, pbc=True)])
    batch.cell[0] = 0
    with pytest.raises(ValueError, match="does not span the periodic directions"):
        binned_neighbor_list(batch, GraphSettings(), CPU)


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_is_the_same_on_every_device(device: torch.device) -> None:
    batch = structure_batch([LARGE, molecule("CH3CH2OH")])
    expected = collate(batch, GraphSettings(), dtype=torch.float64)
    found = collate(batch, GraphSettings(), dtype=torch.float64, device=device)
    for name, tensor in found.tensors().items():
        assert tensor.device.type == device.type
        assert torch.equal(tensor.cpu(), expected.tensors()[name]), name


def test_an_accelerator_searches_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: object) -> None:
        raise NotImplementedError("on the accelerator")

    monkeypatch.setattr("mtlpar.graph.collate.binned_neighbor_list", search)
    with pytest.raises(NotImplementedError, match="on the accelerator"):
        collate(structure_batch([LARGE]), GraphSettings(), device=torch.device("cuda"))
