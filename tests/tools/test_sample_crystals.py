"""Hypothetical crystals are charge-balanced compounds of real elements."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from ase.data import atomic_numbers
from tools.sample.crystals import build_crystal, crystal_plans, grown, with_substitutes
from tools.sample.prototypes import COMMON


@pytest.fixture(scope="module")
def crystals():
    plans = islice(crystal_plans(7, share=1.0, stream=0), 150)
    return [build_crystal(plan, enlarged=True) for plan in plans]


def test_the_first_compounds_are_of_common_elements_only(crystals):
    # Spread over all elements, a small sample would show a model each of them once or twice.
    assert {element for crystal in crystals for element in crystal.elements} <= COMMON


@pytest.mark.parametrize("seed", range(5))
def test_substitution_keeps_charge_and_geometry_and_names_real_elements(
    seed: int, crystals
) -> None:
    changed = 0
    for index, crystal in enumerate(crystals[:60]):
        other = with_substitutes(crystal, np.random.default_rng([seed, index]))
        changed += other.elements != crystal.elements
        assert other.numbers.tolist() == [atomic_numbers[name] for name in other.elements]
        before = sum(crystal.charges[name] for name in crystal.elements)
        assert sum(other.charges[name] for name in other.elements) == before
        np.testing.assert_array_equal(other.positions, crystal.positions)
    assert changed > 10


def test_growing_repeats_the_crystal_at_the_same_density(crystals):
    for crystal in crystals[:40]:
        bigger = grown(crystal, atoms=20)
        assert len(bigger.numbers) >= 20
        density = len(crystal.numbers) / abs(np.linalg.det(crystal.lattice))
        assert len(bigger.numbers) / abs(np.linalg.det(bigger.lattice)) == pytest.approx(density)
        assert len(bigger.elements) == len(bigger.numbers) == len(bigger.positions)
