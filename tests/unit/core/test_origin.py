"""Structures far from the origin keep their geometry when positions are rounded to float32."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlpar.core.origin import near_origin
from mtlpar.core.structures import StructureBatch


def batch_of(*structures):
    positions = np.concatenate([atoms.positions for atoms in structures])
    return StructureBatch.from_labels(
        num_atoms=[len(atoms) for atoms in structures],
        atomic_numbers=np.concatenate([atoms.numbers for atoms in structures]),
        positions=positions,
        energy=np.zeros(len(structures)),
        forces=np.zeros_like(positions),
        group=np.zeros(len(structures)),
        cell=np.stack([atoms.cell.array for atoms in structures]),
        pbc=np.stack([atoms.pbc for atoms in structures]),
    )


def distances(atoms):
    return np.sort(atoms.get_all_distances(mic=bool(atoms.pbc.any())).ravel())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["molecule", "slab", "crystal", "wire"]))
def test_distances_survive_a_long_way_from_the_origin(seed, kind) -> None:
    # As unwrapped trajectories have them: every atom of a crystal has crossed borders of its own.
    rng = np.random.default_rng(seed)
    atoms = {
        "molecule": lambda: molecule("CH3CH2OH"),
        "slab": lambda: fcc111("Cu", (2, 2, 3), vacuum=8.0),
        "crystal": lambda: bulk("NaCl", "rocksalt", 5.6, cubic=True),
        "wire": lambda: Atoms("Cu2", [[0, 0, 0], [1, 1, 2.0]], cell=[9, 9, 4.0], pbc=[0, 0, 1]),
    }[kind]()
    atoms.rattle(0.1, seed=seed)
    near = atoms.copy()
    whole = rng.integers(-30_000, 30_000, size=(len(atoms), 3)) * atoms.pbc
    atoms.positions += whole @ atoms.cell.array
    atoms.positions += rng.normal(scale=1e5, size=3)
    batch = batch_of(atoms)
    assert np.abs(batch.positions).max() < 100
    packed = Atoms(atoms.numbers, batch.positions, cell=batch.cell[0], pbc=atoms.pbc)
    np.testing.assert_allclose(distances(packed), distances(near), atol=2e-5)


def test_structures_near_the_origin_stay_as_they_are() -> None:
    # Their hashes, and with them splits and the order in packs, must not depend on this.
    positions = np.random.default_rng(0).normal(scale=20, size=(6, 3))
    cell, pbc = np.tile(np.eye(3) * 5, (2, 1, 1)), np.ones((2, 3))
    assert near_origin(positions, np.array([2, 4]), cell, pbc) is positions


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_or_has_no_cell_stays_visible(bad) -> None:
    positions = np.array([[1e5, 0, 0], [bad, 0, 0]])
    moved = near_origin(positions, np.array([1, 1]), np.zeros((2, 3, 3)), np.zeros((2, 3)))
    assert np.abs(moved[0]).max() < 1
    assert not np.isfinite(moved[1, 0])
    flat = np.diag([4.0, 4.0, 0.0])[None]
    np.testing.assert_array_equal(
        near_origin(positions[:1], np.array([1]), flat, np.ones((1, 3))), positions[:1]
    )
