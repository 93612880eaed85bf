"""What a student is timed on."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from mtlpar.finetune.learned import side_by_side


@pytest.mark.parametrize(
    ("structure", "copies"),
    [
        (molecule("C6H6"), (3, 3, 3)),
        (bulk("NaCl", "rocksalt", 5.64), (6, 6, 6)),
        # Its other cell vectors are zero: copies along them would lie on one another.
        (Atoms("C", cell=[1.3, 0, 0], pbc=(True, False, False)), (300, 1, 1)),
    ],
    ids=["molecule", "crystal", "wire"],
)
def test_copies_make_300_atoms_that_stay_as_far_apart_as_they_were(
    structure: Atoms, copies: tuple[int, int, int]
) -> None:
    many = side_by_side(structure)
    assert len(many) == len(structure) * np.prod(copies) >= 300
    assert np.array_equal(many.numbers[: len(structure)], structure.numbers)
    closest = _closest(structure.repeat(np.where(structure.pbc, 3, 1)))
    assert _closest(many) == pytest.approx(closest)


def _closest(atoms: Atoms) -> float:
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.all()))
    return float(distances[~np.eye(len(atoms), dtype=bool)].min())


def test_a_structure_of_300_atoms_is_timed_as_it_is() -> None:
    structure = bulk("Cu", cubic=True).repeat((5, 5, 3))
    assert side_by_side(structure) is structure
