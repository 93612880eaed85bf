"""Reference energies: right, exact, only from what they may see, and the same for any partition."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from helpers import ELEMENT_ENERGIES_EV, make_structures
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlpar.core.structures import StructureBatch
from mtlpar.normalize.fit import Moments, ReferenceFit, gather_moments, solve_references

SYMBOLS = {"H": 1, "C": 6, "O": 8}


def _fit(batches: Iterable[StructureBatch]) -> ReferenceFit:
    moments = (gather_moments(b.num_atoms, b.atomic_numbers, b.energy) for b in batches)
    return solve_references(sum(moments, Moments.none()))


def _of_compositions(formulas: list[list[int]], energy: list[float]) -> StructureBatch:
    numbers = np.concatenate(formulas)
    return StructureBatch.from_labels(
        num_atoms=[len(formula) for formula in formulas],
        atomic_numbers=numbers,
        positions=np.zeros((len(numbers), 3)),
        energy=energy,
        forces=np.zeros((len(numbers), 3)),
        group=np.zeros(len(formulas)),
    )


def _counts(batch: StructureBatch) -> np.ndarray:
    structures = np.split(batch.atomic_numbers, batch.offsets[1:-1])
    return np.array([[np.sum(part == z) for z in SYMBOLS.values()] for part in structures], float)


def test_known_element_energies_are_recovered_to_a_nano_ev() -> None:
    # No interaction: totals of up to 16 keV are exact sums, which float32 or normal equations in
    # float64 would only give back to a meV.
    batch = make_structures(300, seed=1, strength=0.0)
    fit = _fit([batch])
    for symbol, number in SYMBOLS.items():
        assert fit.references.energies_ev[symbol] == pytest.approx(
            ELEMENT_ENERGIES_EV[number], abs=1e-9
        )
    assert fit.rank == 3
    assert fit.undetermined == ()


def test_energies_and_their_errors_are_those_of_least_squares() -> None:
    batch = make_structures(200, seed=4, strength=3.0)
    fit = _fit([batch])
    counts = _counts(batch)
    expected, square, *_ = np.linalg.lstsq(counts, batch.energy, rcond=None)
    covariance = np.linalg.inv(counts.T @ counts) * square / (200 - 3)
    np.testing.assert_allclose(list(fit.references.energies_ev.values()), expected, rtol=1e-11)
    errors = list(fit.standard_errors_ev.values())
    np.testing.assert_allclose(errors, np.sqrt(np.diag(covariance)), rtol=1e-8)
    np.testing.assert_allclose(fit.residual_rms_ev, np.sqrt(square[0] / 200), rtol=1e-8)


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 120), max_size=6), order=st.permutations(range(120)))
def test_any_partition_and_order_give_the_same_bits(cuts: list[int], order: list[int]) -> None:
    # Totals of 1 to 16 keV with all their digits: float64 sums would differ in the last ones.
    batch = make_structures(120, seed=9, strength=2.7)
    shuffled = batch.take(order)
    borders = [0, *sorted(cuts), 120]
    parts = [shuffled.slice(i, j) for i, j in pairwise(borders)]
    assert _fit(parts) == _fit([batch])


def test_elements_that_never_occur_are_undefined_not_zero() -> None:
    fit = _fit([make_structures(30, seed=1)])
    assert set(fit.references.energies_ev) == {"H", "C", "O"}


def test_a_fixed_ratio_of_elements_gives_the_minimum_norm_solution() -> None:
    # Only NaCl units: e_Na and e_Cl cannot be told apart, and an unguarded solve would blow up.
    # Argon occurs alone and must not be touched by that.
    batch = _of_compositions([[11, 17], [11, 17, 11, 17], [18], [18]], [-8.0, -16.0, -3.0, -3.5])
    fit = _fit([batch])
    assert fit.rank == 2
    assert fit.undetermined == ("Na", "Cl")
    assert fit.references.energies_ev == pytest.approx({"Na": -4.0, "Cl": -4.0, "Ar": -3.25})


def test_ratios_that_are_nearly_fixed_are_solved_and_not_given_up() -> None:
    # One structure in 400 breaks the ratio: a tolerance on singular values may call it singular,
    # exact numbers do not, and the standard errors say how little is known.
    formulas = [[11, 17] * 40] * 400 + [[11, 17] * 40 + [11]]
    energy = [-200.0 + 1e-3 * (-1) ** i for i in range(400)] + [-205.0]
    fit = _fit([_of_compositions(formulas, energy)])
    assert fit.rank == 2
    assert fit.references.energies_ev["Na"] == pytest.approx(-5.0, abs=1e-6)
    assert fit.references.energies_ev["Cl"] == pytest.approx(0.0, abs=1e-6)


def test_without_spare_structures_there_is_no_standard_error() -> None:
    fit = _fit([_of_compositions([[1], [1, 8]], [-13.0, -2000.0])])
    assert fit.standard_errors_ev == {"H": None, "O": None}


def test_nothing_to_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="no training structure"):
        solve_references(Moments.none())
