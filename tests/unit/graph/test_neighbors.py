"""Neighbour lists against ASE's, for every kind of cell."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list as ase_neighbor_list

from mtlpar.calculator import structure_batch
from mtlpar.graph.collate import collate
from mtlpar.graph.neighbors import nearest, neighbor_list
from mtlpar.graph.settings import GraphSettings


def _random(seed: int, pbc: tuple[int, int, int], scale: float) -> Atoms:
    rng = np.random.default_rng(seed)
    # Skewed cells; small scales make atoms neighbours of several of their own images.
    cell = (np.eye(3) * scale + rng.normal(0, 0.3 * scale, (3, 3))).astype(np.float32)
    positions = (rng.random((4, 3)) @ cell * 1.5).astype(np.float32)
    return Atoms("CHON", positions, cell=cell, pbc=pbc)


CASES = [
    _random(seed, pbc, scale)
    for seed, (pbc, scale) in enumerate(
        [
            ((1, 1, 1), 6.0),
            ((1, 1, 1), 2.0),
            ((1, 1, 0), 3.0),
            ((0, 1, 0), 4.0),
            ((0, 0, 0), 5.0),
            ((1, 0, 1), 2.5),
        ]
    )
]


def _canonical(i: np.ndarray, j: np.ndarray, vector: np.ndarray) -> list[tuple[float, ...]]:
    return sorted(
        (int(a), int(b), *np.round(v, 4).tolist()) for a, b, v in zip(i, j, vector, strict=True)
    )


def test_edges_equal_those_of_ase_in_one_mixed_batch() -> None:
    batch = structure_batch(CASES)
    edges = neighbor_list(batch, GraphSettings(cutoff_angstrom=3.3))
    vector = batch.positions[edges.sender] + edges.shift - batch.positions[edges.receiver]
    for index, atoms in enumerate(CASES):
        first = batch.offsets[index]
        mine = (edges.receiver >= first) & (edges.receiver < batch.offsets[index + 1])
        i, j, expected = ase_neighbor_list("ijD", atoms, 3.3)
        got = _canonical(edges.receiver[mine] - first, edges.sender[mine] - first, vector[mine])
        reference = _canonical(i, j, expected)
        assert len(got) == len(reference), index
        np.testing.assert_allclose(np.array(got), np.array(reference), atol=2e-4)


def test_edges_are_sorted_by_receiver() -> None:
    edges = neighbor_list(structure_batch(CASES), GraphSettings(cutoff_angstrom=3.3))
    assert (np.diff(edges.receiver) >= 0).all()


def test_truncation_keeps_the_nearest_of_each_atom() -> None:
    batch = structure_batch(CASES)
    every = neighbor_list(batch, GraphSettings(cutoff_angstrom=5.0))
    few = neighbor_list(batch, GraphSettings(cutoff_angstrom=5.0, max_neighbors=6))

    def lengths(edges: object, atom: int) -> np.ndarray:
        mine = edges.receiver == atom  # type: ignore[attr-defined]
        vector = (
            batch.positions[edges.sender[mine]]  # type: ignore[attr-defined]
            + edges.shift[mine]  # type: ignore[attr-defined]
            - batch.positions[atom]
        )
        return np.sort(np.linalg.norm(vector, axis=1))

    for atom in range(batch.total_atoms):
        np.testing.assert_allclose(lengths(few, atom), lengths(every, atom)[:6], atol=1e-6)


def test_nearest_breaks_no_receiver_apart() -> None:
    receiver = np.array([0, 0, 0, 2, 2])
    distance = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    assert nearest(receiver, distance, 2).tolist() == [1, 2, 4, 3]


def test_a_periodic_structure_without_a_cell_is_an_error_not_a_molecule() -> None:
    # The reference quietly falls back to open boundaries here.
    broken = Atoms("C2", [[0, 0, 0], [1, 0, 0]], cell=np.zeros((3, 3)), pbc=True)
    with pytest.raises(ValueError, match="no neighbour list for structure"):
        neighbor_list(structure_batch([broken]), GraphSettings())


def test_collated_batch_has_pyg_fields_and_lengths_within_the_cutoff() -> None:
    graph = collate(structure_batch(CASES), GraphSettings(cutoff_angstrom=3.3))
    assert graph.num_graphs == len(CASES)
    assert graph.num_nodes == 4 * len(CASES)
    sender, receiver = graph.edge_index
    length = (graph.pos[sender] + graph.edge_shift - graph.pos[receiver]).norm(dim=1)
    assert float(length.max()) <= 3.3 + 1e-5
    assert (graph.batch[sender] == graph.batch[receiver]).all()
