"""Reference energies come off and go back on, and never invent an element."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import ELEMENT_ENERGIES_EV, make_structures

from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch


def test_target_of_a_hand_computed_molecule() -> None:
    water = StructureBatch.from_labels(
        num_atoms=[3],
        atomic_numbers=[8, 1, 1],
        positions=np.zeros((3, 3)),
        energy=[-2079.6],
        forces=np.zeros((3, 3)),
        group=[0],
    )
    references = References({"H": -13.5, "O": -2040.0})
    # (-2079.6 - (-2040 - 2 * 13.5)) / 3 = -12.6 / 3
    np.testing.assert_allclose(references.to_target(water), [-4.2], atol=1e-10)


def test_a_target_has_the_same_bits_wherever_its_structure_lies() -> None:
    # Eight atoms are where NumPy begins to add in another order: one more number beside them, such
    # as padding after the last structure, would change the last bit.
    batch = make_structures(40, seed=4, atoms=(7, 10))
    references = References({"H": -12.765229739982347, "C": -1028.5608958664648, "O": -2040.7703})
    whole = references.to_target(batch)
    for index in range(len(batch)):
        alone = references.to_target(batch.slice(index, index + 1))
        assert alone[0] == whole[index]


def test_element_without_reference_is_an_error_that_lists_those_with_one() -> None:
    references = References({"H": ELEMENT_ENERGIES_EV[1], "C": ELEMENT_ENERGIES_EV[6]})
    with pytest.raises(ValueError, match=r"no reference energy for O.*H, C"):
        references.sums(make_structures(20, seed=2))
