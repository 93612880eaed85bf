"""Lists with a skin give the edges of a fresh search, bit by bit, as long as they say they hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from devices import CPU, DEVICES

from mtlpar.core.ase_structures import structure_batch
from mtlpar.graph.neighbors import neighbor_list
from mtlpar.graph.settings import GraphSettings
from mtlpar.graph.skin import SKIN_ANGSTROM, SkinList

SETTINGS = GraphSettings(cutoff_angstrom=4.0)
THIN = Atoms("CO", [[0, 0, 0], [0.7, 0.6, 0.9]], cell=[[2.1, 0, 0], [0.9, 2.3, 0], [0, 0, 3]])
STRUCTURES = {
    "molecule": molecule("CH3CH2OH"),
    "crystal": bulk("NaCl", "rocksalt", a=5.6, cubic=True),
    # Atoms see their own images, whose distance never changes.
    "thin cell": Atoms(THIN, pbc=True),
    "slab": fcc111("Al", (2, 2, 2), vacuum=8.0),
    # Beyond the size at which candidates come from linked cells.
    "large": bulk("MgO", "rocksalt", a=4.2, cubic=True).repeat(3),
    "alone": Atoms("H"),
}


def _assert_same_edges(skin: SkinList, atoms: Atoms, settings: GraphSettings) -> int:
    fresh = neighbor_list(structure_batch([atoms]), settings)
    found = skin.edges(atoms.positions)
    np.testing.assert_array_equal(found.edge_index.cpu(), [fresh.sender, fresh.receiver])
    vector = atoms.positions[fresh.sender] + fresh.shift - atoms.positions[fresh.receiver]
    np.testing.assert_array_equal(found.vector.T.cpu(), vector)
    return len(fresh.receiver)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("limit", [None, 5])
def test_edges_are_those_of_a_fresh_list_along_a_walk(
    name: str, limit: int | None, device: torch.device
) -> None:
    # Far from the origin and outside the cell, where another order of sums would show.
    atoms = STRUCTURES[name].copy()
    atoms.positions += 17.3
    settings = SETTINGS.model_copy(update={"max_neighbors": limit})
    skin = SkinList(structure_batch([atoms]), settings, device)
    rng = np.random.default_rng(0)
    numbers, steps = set(), 0
    while skin.still_holds(atoms.positions):
        numbers.add(_assert_same_edges(skin, atoms, settings))
        atoms.positions += 0.02 * rng.normal(size=atoms.positions.shape)
        steps += 1
    assert steps > 3
    # Where the walk brought no neighbour in or out, a list that never looks would pass too.
    assert len(numbers) > 1 or limit is not None or name in ("alone", "molecule", "thin cell")


def test_a_list_does_not_hold_where_strangers_could_meet() -> None:
    # Too far apart for the list, and neighbours after both moved by little more than half the skin.
    atoms = Atoms("H2", [[0, 0, 0], [SETTINGS.cutoff_angstrom + SKIN_ANGSTROM + 1e-3, 0, 0]])
    skin = SkinList(structure_batch([atoms]), SETTINGS, CPU)
    atoms.positions[:, 0] += [SKIN_ANGSTROM / 2 + 1e-3, -SKIN_ANGSTROM / 2 - 1e-3]
    assert len(neighbor_list(structure_batch([atoms]), SETTINGS).receiver) == 2
    assert skin.edges(atoms.positions).edge_index.shape == (2, 0)
    assert not skin.still_holds(atoms.positions)


def test_a_list_does_not_hold_for_atoms_that_are_nowhere() -> None:
    atoms = molecule("H2O")
    skin = SkinList(structure_batch([atoms]), SETTINGS, CPU)
    assert skin.still_holds(atoms.positions)
    atoms.positions[1, 1] = np.nan
    assert not skin.still_holds(atoms.positions)
