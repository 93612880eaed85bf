"""Fingerprints find a geometry however it is written, and nothing that is another one."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from helpers import make_structures, rewrite

from mtlpar.core.structures import StructureBatch
from mtlpar.graph.fingerprint import TOLERANCE, fingerprints

WAYS = ("moved", "turned", "reordered", "wrapped")


def to_batch(*structures: Atoms, **optional: np.ndarray) -> StructureBatch:
    """Structures without labels."""
    num_atoms = [len(atoms) for atoms in structures]
    return StructureBatch.from_labels(
        num_atoms=num_atoms,
        atomic_numbers=np.concatenate([atoms.numbers for atoms in structures]),
        positions=np.concatenate([atoms.positions for atoms in structures]).astype(np.float32),
        energy=np.zeros(len(structures)),
        forces=np.zeros((sum(num_atoms), 3)),
        group=np.arange(len(structures)),
        cell=np.stack([atoms.cell.array for atoms in structures]),
        pbc=np.stack([atoms.pbc for atoms in structures]),
        **optional,
    )


def are_copies(first: StructureBatch, second: StructureBatch) -> np.ndarray:
    """Whether structures of two batches are copies, pair by pair."""
    left, right = (fingerprints(batch).astype(np.int64) for batch in (first, second))
    assert (left[:, 0] > 0).all()
    return (left[:, 0] == right[:, 0]) & (np.abs(left - right)[:, 1:] <= TOLERANCE).all(axis=1)


def _slab(periodic: bool | tuple[int, int, int], height: float = 2.0) -> Atoms:
    slab = fcc111("Cu", (2, 2, 3), vacuum=9)
    add_adsorbate(slab, molecule("CH3OH"), height, "ontop")
    slab.pbc = periodic
    return slab


def _wire() -> Atoms:
    wire = molecule("C2H6")
    wire.cell, wire.pbc = (8, 0, 0), (True, False, False)
    return wire


def _kinds() -> StructureBatch:
    """Molecules of all shapes, crystals that are perfect, skewed and rattled, slabs and a wire."""
    rattled = bulk("NaCl", "rocksalt", a=5.6) * (2, 2, 2)
    rattled.rattle(0.1, seed=1)
    ordered = [
        *(molecule(name) for name in ("H2", "CO2", "H2O", "C6H6", "CH3CH2OH")),
        Atoms("Ar"),
        bulk("Fe"),
        bulk("ZnO", "wurtzite", a=3.2, c=5.2),
        bulk("Cu", cubic=True) * 2,
        rattled,
        *(_slab(periodic) for periodic in (True, (1, 1, 0))),
        _wire(),
    ]
    return StructureBatch.concatenate([to_batch(*ordered), make_structures(40, seed=1)])


@pytest.mark.parametrize("ways", [*((way,) for way in WAYS), WAYS], ids=[*WAYS, "all"])
def test_a_geometry_is_found_however_it_is_written(ways: tuple[str, ...]) -> None:
    batch = _kinds()
    for seed in range(5):
        copies = rewrite(batch, seed=seed, **dict.fromkeys(ways, True))
        # Not trivially: the bytes are others. Only periodic structures can be wrapped.
        assert (copies.structure_id != batch.structure_id).sum() > 5
        assert are_copies(batch, copies).all()


def test_any_lattice_vectors_of_a_lattice_are_alike() -> None:
    # Files of one crystal often differ in this way: the order of the vectors, or skewed ones.
    crystal = bulk("ZnO", "wurtzite", a=3.2, c=5.2)
    a, b, c = crystal.cell.array
    other = crystal.copy()
    other.set_cell([c, a + b, b])
    assert are_copies(to_batch(crystal), to_batch(other)).all()


def test_one_atom_of_many_that_moves_by_a_hundredth_of_an_angstrom_is_seen() -> None:
    # Hardest in perfect crystals, where all sums over distances change by its square only, and in
    # supercells, where few of many terms change.
    batch = StructureBatch.concatenate(
        [
            _kinds(),
            to_batch(bulk("Cu", cubic=True) * 4, bulk("NaCl", "rocksalt", a=5.6) * (4, 4, 4)),
        ]
    )
    # A crystal of one atom cannot change so.
    batch = batch.take(np.flatnonzero(batch.num_atoms > 1))
    rng = np.random.default_rng(0)
    for _ in range(5):
        columns = batch.columns()
        direction = rng.normal(size=(len(batch), 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        positions = batch.positions.copy()
        positions[batch.offsets[:-1]] += 0.01 * direction
        columns["positions"] = positions
        moved = are_copies(batch, StructureBatch(columns))
        assert not moved.any()


def test_copies_of_another_charge_spin_or_identity_are_none() -> None:
    water = molecule("H2O")
    plain = to_batch(water)
    for change in (
        {"charge": np.array([1])},
        {"spin": np.array([3])},
        # What a custom source found under keys that nothing reads.
        {"identity": np.array([77], np.uint64)},
    ):
        changed = to_batch(water, **change)
        assert not are_copies(plain, changed).any()
        assert are_copies(changed, to_batch(water, **change)).all()
    # The same places with the elements exchanged.
    water.numbers = [1, 8, 1]
    assert not are_copies(plain, to_batch(water)).any()


def test_what_lies_beyond_the_cutoff_counts() -> None:
    # Two molecules that are apart by more than the neighbour list sees: pulled apart, and turned.
    def pair(distance: float, angle: float, periodic: bool) -> Atoms:
        second = molecule("CO")
        second.rotate(angle, "x", center="COM")
        second.positions += [distance, 0, 0]
        both = molecule("CH3OH") + second
        both.cell, both.pbc = [30.0] * 3, periodic
        return both

    for periodic in (False, True):
        for distance in (8.0, 12.0):
            near = to_batch(pair(distance, 0, periodic))
            assert not are_copies(near, to_batch(pair(distance + 0.1, 0, periodic))).any()
            assert not are_copies(near, to_batch(pair(distance, 40, periodic))).any()
    for periodic in (True, (1, 1, 0)):
        high, higher = (to_batch(_slab(periodic, height)) for height in (7.0, 7.1))
        assert not are_copies(high, higher).any()


def test_mirror_images_are_copies() -> None:
    # Their energies are equal, and models of ours cannot tell them apart.
    left = molecule("CH3CH2OH")
    left.rattle(0.2, seed=1)
    right = left.copy()
    right.positions *= [-1, 1, 1]
    assert are_copies(to_batch(left), to_batch(right)).all()


def test_a_fingerprint_does_not_depend_on_the_batch_around_a_structure() -> None:
    # Else parts would depend on how raw files are divided.
    batch = _kinds()
    alone = [fingerprints(batch.slice(i, i + 1)) for i in range(len(batch))]
    np.testing.assert_array_equal(fingerprints(batch), np.concatenate(alone))


def test_an_impossibly_small_cell_has_no_fingerprint() -> None:
    # Its list of neighbours would take all memory; the extract stage keeps such rows.
    atoms = Atoms("H", cell=[0.02] * 3, pbc=True)
    words = fingerprints(to_batch(atoms, molecule("H2")))
    assert not words[0].any()
    assert words[1].all()


def test_no_structures_have_no_fingerprints() -> None:
    assert fingerprints(StructureBatch.concatenate([])).shape == (0, 5)
