"""Neighbour lists against ASE's, for every kind of cell, and the same edges from every search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list as ase_neighbor_list
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_atoms import random_atoms

from mtlpar.calculator import structure_batch
from mtlpar.core.structures import StructureBatch
from mtlpar.graph import neighbors
from mtlpar.graph.collate import collate
from mtlpar.graph.neighbors import Edges, count_edges, nearest, neighbor_list
from mtlpar.graph.settings import GraphSettings


def expected_edges(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Receiver, sender and shift from ASE, in the order that ours are promised in."""
    receiver, sender, image = ase_neighbor_list("ijS", atoms, cutoff)
    order = np.lexsort((*image.T[::-1], sender, receiver))
    return receiver[order], sender[order], image[order] @ atoms.cell.array


def assert_equal_edges(got: Edges, expected: Edges) -> None:
    """To the last bit."""
    np.testing.assert_array_equal(got.receiver, expected.receiver)
    np.testing.assert_array_equal(got.sender, expected.sender)
    np.testing.assert_array_equal(got.shift, expected.shift)


def squared_lengths(batch: StructureBatch, edges: Edges) -> np.ndarray:
    """Of the edges, in float64."""
    positions = batch.positions.astype(np.float64)
    vector = positions[edges.sender] + edges.shift - positions[edges.receiver]
    return (vector**2).sum(axis=1)


@pytest.mark.long
@settings(max_examples=100)
@given(random_atoms(), st.sampled_from([2.0, 3.7, 5.0]))
def test_edges_are_those_of_ase(atoms: Atoms, cutoff: float) -> None:
    # Pairs at the cutoff may fall to either side.
    counts = [len(ase_neighbor_list("i", atoms, cutoff + sign * 1e-5)) for sign in (-1, 1)]
    assume(counts[0] == counts[1])
    edges = neighbor_list(structure_batch([atoms]), GraphSettings(cutoff_angstrom=cutoff))
    receiver, sender, shift = expected_edges(atoms, cutoff)
    np.testing.assert_array_equal(edges.receiver, receiver)
    np.testing.assert_array_equal(edges.sender, sender)
    np.testing.assert_allclose(edges.shift, shift, atol=1e-4)


@pytest.mark.long
@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(structures=st.lists(random_atoms(), max_size=6), limit=st.sampled_from([None, 1, 5, 20]))
def test_edges_do_not_depend_on_the_search_or_on_the_rest_of_the_batch(
    structures: list[Atoms], limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = GraphSettings(cutoff_angstrom=4.0, max_neighbors=limit)
    batch = structure_batch(structures) if structures else StructureBatch.concatenate([])
    together = neighbor_list(batch, options)
    with monkeypatch.context() as patch:
        # Every structure a piece of its own.
        patch.setattr(neighbors, "_CHUNK_OPEN", 1)
        patch.setattr(neighbors, "_CHUNK_PERIODIC", 1)
        assert_equal_edges(neighbor_list(batch, options), together)
        # Every structure, or every other one, by linked cells.
        patch.setattr(neighbors, "_LARGE_PERIODIC", 0)
        assert_equal_edges(neighbor_list(batch, options), together)
        patch.setattr(neighbors, "_LARGE_OPEN", 0)
        assert_equal_edges(neighbor_list(batch, options), together)
    mine = [neighbor_list(batch.slice(i, i + 1), options) for i in range(len(batch))]
    first_atom = batch.offsets
    assert together.receiver.tolist() == [
        receiver + first_atom[i] for i, edges in enumerate(mine) for receiver in edges.receiver
    ]
    assert together.sender.tolist() == [
        sender + first_atom[i] for i, edges in enumerate(mine) for sender in edges.sender
    ]


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(structures=st.lists(random_atoms(), max_size=6), limit=st.sampled_from([None, 1, 5]))
def test_edges_are_counted_as_they_are_made(structures: list[Atoms], limit: int | None) -> None:
    # A structure without any edge in front and at the end.
    lonely = Atoms("H", cell=np.eye(3) * 9)
    options = GraphSettings(cutoff_angstrom=4.0, max_neighbors=limit)
    batch = structure_batch([lonely, *structures, lonely])
    receiver = neighbor_list(batch, options).receiver
    owner = np.searchsorted(batch.offsets, receiver, side="right") - 1
    expected = np.bincount(owner, minlength=len(batch))
    assert count_edges(batch, options).tolist() == expected.tolist()


@settings(max_examples=40)
@given(random_atoms(), st.integers(1, 30))
def test_truncation_keeps_the_nearest_and_then_the_first(atoms: Atoms, limit: int) -> None:
    batch = structure_batch([atoms])
    every = neighbor_list(batch, GraphSettings(cutoff_angstrom=4.5))
    few = neighbor_list(batch, GraphSettings(cutoff_angstrom=4.5, max_neighbors=limit))
    # Edges are sorted by sender and image, so a stable sort by length is the rule for ties.
    order = np.lexsort((squared_lengths(batch, every), every.receiver))
    rank = np.concatenate(
        [np.arange(count) for count in np.bincount(every.receiver, minlength=1) if count]
        or [np.zeros(0, int)]
    )
    kept = np.sort(order[rank < limit])
    assert_equal_edges(few, Edges(every.receiver[kept], every.sender[kept], every.shift[kept]))


def test_ties_go_to_the_smallest_sender_and_then_image() -> None:
    # A simple cubic lattice with whole coordinates: six equal distances, exact in binary.
    for scaled in ([[0, 0, 0]], [[0, 0, 0], [2, 0, 0]]):
        cubic = Atoms("C" * len(scaled), scaled, cell=[2.0 * len(scaled), 2, 2], pbc=True)
        batch = structure_batch([cubic])
        edges = neighbor_list(batch, GraphSettings(cutoff_angstrom=2.5, max_neighbors=4))
        first = edges.receiver == 0
        chosen = list(zip(edges.sender[first].tolist(), edges.shift[first].tolist(), strict=True))
        every = [
            (sender, [float(np.dot(image, column)) for column in cubic.cell.array.T])
            for sender in range(len(scaled))
            for image in itertools.product((-1, 0, 1), repeat=3)
        ]
        nearest_six = [
            (sender, shift)
            for sender, shift in every
            if np.linalg.norm(np.array(scaled[sender]) + shift) == 2.0
        ]
        assert len(nearest_six) == 6
        assert chosen == nearest_six[:4]


def test_large_structures_use_linked_cells_and_agree_with_ase() -> None:
    rng = np.random.default_rng(5)
    cell = np.array([[18.0, 0, 0], [5, 17, 0], [-3, 4, 16]], np.float32)
    positions = (rng.random((250, 3)) @ cell * 2).astype(np.float32)
    atoms = Atoms(numbers=np.full(250, 6), positions=positions, cell=cell, pbc=(1, 0, 1))
    edges = neighbor_list(structure_batch([atoms]), GraphSettings(cutoff_angstrom=4.0))
    receiver, sender, shift = expected_edges(atoms, 4.0)
    np.testing.assert_array_equal(edges.receiver, receiver)
    np.testing.assert_array_equal(edges.sender, sender)
    np.testing.assert_allclose(edges.shift, shift, atol=1e-4)


def test_nearest_counts_each_receiver_by_itself() -> None:
    receiver = np.array([0, 0, 0, 2, 2, 7])
    distance = np.array([3.0, 1.0, 2.0, 5.0, 4.0, 9.0])
    assert nearest(receiver, distance, 2).tolist() == [False, True, True, True, True, True]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_structures_without_edges_give_none(count: int) -> None:
    lonely = structure_batch([Atoms("H"), Atoms("H", cell=np.eye(3) * 9, pbc=True)])
    batch = lonely.slice(0, count)
    edges = neighbor_list(batch, GraphSettings(max_neighbors=3))
    assert edges.receiver.shape == edges.sender.shape == (0,)
    assert edges.shift.shape == (0, 3)


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        (np.zeros((3, 3)), True),
        ([[3, 0, 0], [6, 0, 0], [0, 0, 3]], True),
        ([[3, 0, 0], [0, 3, 0], [3, 3, 1e-7]], True),
        ([[3, 0, 0], [0, 0, 0], [0, 0, 3]], (0, 1, 0)),
        ([[np.nan, 0, 0], [0, 3, 0], [0, 0, 3]], True),
    ],
    ids=["none", "parallel", "flat", "zero along the periodic direction", "not a number"],
)
def test_a_periodic_structure_without_a_cell_is_an_error_not_a_molecule(
    cell: object, pbc: object
) -> None:
    # The reference quietly falls back to open boundaries here.
    fine = Atoms("C", cell=np.eye(3) * 3, pbc=True)
    batch = structure_batch([fine, Atoms("C2", [[0, 0, 0], [1, 0, 0]])])
    # Structures of ASE are looked at before; those of a pack come here as they are.
    batch.cell[1], batch.pbc[1] = cell, pbc
    with pytest.raises(ValueError, match="no neighbour list for structure"):
        neighbor_list(batch, GraphSettings())


CASES = [
    Atoms("CHO", np.arange(9.0).reshape(3, 3) / 3, cell=np.eye(3) * size, pbc=pbc)
    for size, pbc in [(3.0, True), (5.0, (1, 1, 0)), (9.0, False)]
]


def test_collated_batch_has_pyg_fields_and_lengths_within_the_cutoff() -> None:
    graph = collate(structure_batch(CASES), GraphSettings(cutoff_angstrom=3.3))
    assert graph.num_graphs == len(CASES)
    assert graph.num_nodes == 3 * len(CASES)
    sender, receiver = graph.edge_index
    length = (graph.pos[sender] + graph.edge_shift - graph.pos[receiver]).norm(dim=1)
    assert float(length.max()) <= 3.3 + 1e-5
    assert (graph.batch[sender] == graph.batch[receiver]).all()
