"""Charges and multiplicities are read alike from files and from ASE, up to rounding and type."""

import numpy as np
import pytest
from ase import Atoms

from mtlpar.core.ase_structures import structure_batch
from mtlpar.core.electronic_state import find_charge, find_spin


@pytest.mark.parametrize(
    "value", [-1, -1.0, -0.9999999999999999, np.int64(-1), np.array(-1.0), [-0.4, -0.4, -0.2]]
)
def test_a_charge_is_whole_up_to_rounding_whatever_its_type(value):
    # Sums of charges of the atoms are rarely whole to the last bit.
    assert find_charge({"charge": value}, "here") == -1


@pytest.mark.parametrize("value", [0.3, np.nan, 128, "one", -1e9, [0.5, 0.2], True])
def test_what_is_no_charge_is_refused_with_its_key(value):
    with pytest.raises(ValueError, match=r"here: 'total_charge' is .*expected an integer"):
        find_charge({"total_charge": value}, "here")


def test_nothing_said_is_charge_zero_and_spin_unknown():
    for labels in ({}, {"charge": None}, {"charge": 2.7e-17}):
        assert find_charge(labels, "here") == 0
    assert find_spin({}, "here") == 0
    assert find_spin({"multiplicity": 3}, "here") == 3
    with pytest.raises(ValueError, match="'spin' is -1"):
        find_spin({"spin": -1}, "here")


def test_two_keys_that_contradict_each_other_are_refused():
    assert find_charge({"charge": 1, "total_charge": 1.0}, "here") == 1
    with pytest.raises(ValueError, match=r"here: .*'charge': 1, 'total_charge': 0.* contradict"):
        find_charge({"charge": 1, "total_charge": 0}, "here")


def test_ase_structures_are_read_by_the_same_policy_and_have_no_labels():
    structures = [Atoms("H", info=info) for info in ({}, {"total_charge": 1}, {"charge": -1.0})]
    batch = structure_batch(structures)
    assert batch.charge.tolist() == [0, 1, -1]
    assert not (batch.energy_mask | batch.forces_mask | batch.stress_mask).any()
