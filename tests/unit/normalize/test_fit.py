"""Reference energies: right, stable, and only from what they may see."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import ELEMENT_ENERGIES_EV, make_structures

from mtlpar.core.structures import StructureBatch
from mtlpar.normalize.fit import fit_references


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


def test_known_element_energies_are_recovered_to_a_micro_ev() -> None:
    # No interaction: totals of up to 16 keV are exact sums, which float32 or normal equations
    # would only give back to a meV.
    batch = make_structures(300, seed=1, strength=0.0)
    fit = fit_references([batch.slice(0, 100), batch.slice(100, 300)])
    for symbol, number in {"H": 1, "C": 6, "O": 8}.items():
        assert fit.references.energies_ev[symbol] == pytest.approx(
            ELEMENT_ENERGIES_EV[number], abs=1e-6
        )
    assert fit.rank == 3


def test_fit_in_blocks_equals_least_squares_at_once() -> None:
    batch = make_structures(200, seed=4, strength=3.0)
    fit = fit_references(batch.slice(i, min(i + 7, 200)) for i in range(0, 200, 7))
    counts = np.stack(
        [[np.sum(batch.slice(i, i + 1).atomic_numbers == z) for z in (1, 6, 8)] for i in range(200)]
    )
    expected, *_ = np.linalg.lstsq(counts.astype(float), batch.energy, rcond=None)
    np.testing.assert_allclose(list(fit.references.energies_ev.values()), expected, rtol=1e-11)


def test_elements_that_never_occur_are_undefined_not_zero() -> None:
    fit = fit_references([make_structures(30, seed=1)])
    assert set(fit.references.energies_ev) == {"H", "C", "O"}


def test_a_fixed_ratio_of_elements_gives_the_minimum_norm_solution() -> None:
    # Only NaCl units: e_Na and e_Cl cannot be told apart, and an unguarded solve would blow up.
    batch = _of_compositions([[11, 17], [11, 17, 11, 17]], [-8.0, -16.0])
    fit = fit_references([batch])
    assert fit.rank == 1
    assert fit.references.energies_ev == pytest.approx({"Na": -4.0, "Cl": -4.0})


def test_nothing_to_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="no training structure"):
        fit_references([])
