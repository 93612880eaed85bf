"""Exact sums are exact: compared with fractions, which do not round."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlpar.normalize.exact import (
    QUANTA_PER_UNIT,
    exact_sum,
    from_quanta,
    square_quanta,
    to_digits,
)

# Energies as they come: large, small, of both signs, with all 53 bits.
NUMBERS = st.floats(1e-2, 4e9) | st.floats(-4e9, -1e-2) | st.just(0.0)


@given(st.lists(NUMBERS, min_size=1, max_size=50))
def test_sums_are_those_of_fractions(values: list[float]) -> None:
    expected = sum(map(Fraction, values))
    # Bits below 2^-57 are rounded off, number by number.
    allowed = Fraction(len(values), 2 * QUANTA_PER_UNIT)
    assert abs(Fraction(exact_sum(np.array(values)), QUANTA_PER_UNIT) - expected) <= allowed


@given(st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=50))
def test_sums_of_squares_are_those_of_fractions(values: list[int]) -> None:
    numbers = np.array(values) / 1024
    expected = sum(Fraction(value, 1024) ** 2 for value in values)
    assert Fraction(square_quanta(to_digits(numbers)), QUANTA_PER_UNIT**2) == expected


def test_small_terms_survive_beside_large_ones() -> None:
    # In float64 the ones are lost one by one.
    values = np.array([1e9, *[2.0**-40] * 1000, -1e9])
    assert from_quanta(exact_sum(values)) == 1000 * 2.0**-40


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**32, -(2.0**40)])
def test_numbers_out_of_range_are_refused_by_value(value: float) -> None:
    # The largest of a negative offender and its neighbours is an innocent one.
    with pytest.raises(ValueError, match="finite numbers below") as caught:
        to_digits(np.array([1.0, value]))
    assert str(caught.value).endswith(f", got {value:g}")
