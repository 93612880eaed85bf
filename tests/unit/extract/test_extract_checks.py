import itertools

import numpy as np
import pytest

from mtlpar.core.structures import StructureBatch
from mtlpar.extract.checks import check

INF = np.inf
NAN = np.nan


def batch(count=4, size=2, **changes):
    """Periodic structures of ``size`` atoms; ``changes`` are applied as {name: (index, value)}."""
    rng = np.random.default_rng(0)
    columns = {
        "num_atoms": np.full(count, size),
        "atomic_numbers": np.full(count * size, 6),
        "positions": rng.normal(size=(count * size, 3)),
        "energy": rng.normal(size=count),
        "forces": rng.normal(size=(count * size, 3)),
        "group": np.arange(count, dtype=np.uint64),
        "cell": np.tile(np.eye(3) * 4, (count, 1, 1)),
        "pbc": np.ones((count, 3)),
        "stress": np.zeros((count, 6)),
        "stress_mask": np.ones(count),
    }
    for name, (index, value) in changes.items():
        columns[name][index] = value
    return StructureBatch.from_labels(**columns)


def test_good_structures_pass_untouched():
    good = batch()
    kept, dropped, _ = check(good, max_force=1000)
    assert kept is good
    assert dropped == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(["positions", "cell", "energy", "forces"], [NAN, INF, -INF]),
        ("stress", INF),
        ("stress", -INF),
    ],
)
def test_numbers_that_are_none_are_counted_by_what_they_are(name, value):
    # Atom 5 is the second atom of structure 2: a check of first atoms only would miss it.
    index = {"positions": (5, 1), "forces": (5, 2), "cell": (2, 0, 1), "energy": 2,
             "stress": (2, 5)}[name]  # fmt: skip
    kept, dropped, _ = check(batch(**{name: (index, value)}), max_force=1000)
    assert dropped == {f"non_finite_{name}": 1}
    assert kept.group.tolist() == [0, 1, 3]
    assert len(kept.positions) == 6


@pytest.mark.parametrize("number", [0, 119])
def test_atoms_of_no_element_are_counted(number):
    kept, dropped, _ = check(batch(atomic_numbers=(7, number)), max_force=1000)
    assert dropped == {"unknown_element": 1}
    assert kept.group.tolist() == [0, 1, 2]


def test_the_length_of_a_force_counts_and_not_its_components():
    # (0, 3, 4) has length 5 and components below it; exactly the limit is still allowed.
    forces = batch(forces=(3, (0, 3, 4)))
    assert check(forces, max_force=5.0)[1] == {}
    kept, dropped, _ = check(forces, max_force=4.99)
    assert dropped == {"force_too_large": 1}
    assert kept.group.tolist() == [0, 2, 3]


@pytest.mark.parametrize("energy", [-1e12, 1e12])
def test_an_energy_beyond_that_of_any_element_is_counted(energy):
    # The sums of the normalize stage cannot hold it. Two atoms may have up to 4e6 eV, as gold with
    # all its electrons has 5e5 eV each.
    assert check(batch(energy=(1, -1e6)), max_force=1000)[1] == {}
    kept, dropped, _ = check(batch(energy=(1, energy)), max_force=1000)
    assert dropped == {"energy_too_large": 1}
    assert kept.group.tolist() == [0, 2, 3]


def test_structures_without_atoms_are_counted():
    columns = batch().columns()
    columns["num_atoms"] = np.array([3, 0, 5, 0])
    kept, dropped, _ = check(StructureBatch(columns), max_force=1000)
    assert dropped == {"no_atoms": 2}
    assert kept.num_atoms.tolist() == [3, 5]
    # The atoms of the others stay theirs when an empty neighbour goes.
    np.testing.assert_array_equal(kept.positions, columns["positions"])


@pytest.mark.parametrize(
    ("cell", "pbc", "singular"),
    [
        (np.eye(3) * 4, (1, 1, 1), False),
        (np.zeros((3, 3)), (1, 1, 1), True),
        (np.zeros((3, 3)), (0, 0, 0), False),
        ([[4, 0, 0], [0, 4, 0], [4, 4, 0]], (1, 1, 1), True),
        ([[4, 0, 0], [0, 4, 0], [4, 4, 0]], (1, 1, 0), False),
        ([[4, 0, 0], [0, 4, 0], [0, 0, 0]], (1, 1, 0), False),
        ([[4, 0, 0], [8, 0, 0], [0, 0, 9]], (1, 1, 0), True),
        ([[4, 0, 0], [8, 0, 0], [0, 0, 9]], (1, 0, 1), False),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 9]], (0, 0, 1), False),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 9]], (0, 1, 0), True),
        # The flattest rhombohedral cell of the real excerpts.
        ([[10, 0, 0], [9.2, 3.94, 0], [9.2, 1.9, 3.45]], (1, 1, 1), False),
    ],
)
def test_only_lattice_vectors_that_are_periodic_must_be_independent(cell, pbc, singular):
    _, dropped, _ = check(batch(cell=(1, cell), pbc=(1, pbc)), max_force=1000)
    assert dropped == ({"singular_cell": 1} if singular else {})


@pytest.mark.parametrize(
    ("edge", "pbc", "small"),
    [
        (0.4e-3, (1, 1, 1), True),
        # 0.17 Å^3 for two atoms.
        (0.55, (1, 1, 1), True),
        (2.0, (1, 1, 1), False),
        (0.2, (1, 1, 0), True),
        (0.05, (0, 1, 0), True),
        # Atoms above such a square may be a slab, and a molecule may carry any cell.
        (0.6, (1, 1, 0), False),
        (0.4e-3, (0, 0, 0), False),
    ],
)
def test_a_cell_that_leaves_no_room_for_its_atoms_is_in_other_units(edge, pbc, small):
    # The neighbour search would find millions of images of each atom.
    cell = np.eye(3) * edge
    _, dropped, _ = check(batch(cell=(1, cell), pbc=(1, pbc)), max_force=1000)
    assert dropped == ({"cell_too_small": 1} if small else {})


def test_each_structure_is_counted_once_under_its_first_reason():
    everything_wrong = batch(
        atomic_numbers=(2, 0),
        positions=(2, NAN),
        energy=(1, NAN),
        forces=(2, NAN),
        cell=(1, 0.0),
    )
    kept, dropped, _ = check(everything_wrong, max_force=1e-9)
    assert dropped == {"unknown_element": 1, "force_too_large": 3}
    assert len(kept) == 0


def test_no_structures_are_no_problem():
    kept, dropped, _ = check(StructureBatch.concatenate([]), max_force=1)
    assert len(kept) == 0
    assert dropped == {}


def test_a_stress_that_is_nan_costs_no_structure():
    kept, dropped, removed = check(batch(stress=((2, 5), NAN)), max_force=1000)
    assert dropped == removed == {}
    assert kept.stress_mask.tolist() == [1, 1, 0, 1]
    assert np.isfinite(kept.stress).all()


def test_a_stress_without_a_volume_is_taken_off_and_counted():
    # A molecule in a box, a slab whose third vector is missing, and a slab with a vacuum vector,
    # whose stress is that of the whole box.
    molecule, flat, slab = [0, 0, 0], [1, 1, 0], [1, 1, 0]
    cells = np.tile(np.eye(3) * 4, (4, 1, 1))
    cells[1, 2] = 0
    structures = batch(pbc=(slice(None), [molecule, flat, slab, [1, 1, 1]]), stress=(..., 6733.0))
    structures.cell[:] = cells
    kept, dropped, removed = check(structures, max_force=1000)
    assert dropped == {}
    assert removed == {"stress_without_volume": 2}
    assert kept.stress_mask.tolist() == [0, 0, 1, 1]
    assert kept.stress[:2].tolist() == np.zeros((2, 6)).tolist()


def test_a_structure_without_any_label_teaches_nothing():
    structures = batch(stress_mask=(slice(None), 0))
    structures.energy_mask[:] = [1, 0, 0, 1]
    structures.forces_mask[:] = [0, 1, 0, 0]
    kept, dropped, _ = check(structures, max_force=1000)
    assert dropped == {"no_label": 1}
    assert kept.group.tolist() == [0, 1, 3]
