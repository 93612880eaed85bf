"""The number that epochs are compared by."""

from __future__ import annotations

import pytest

from mtlpar.train.validate import relative_score

ENERGY, FORCE = "energy_mae_ev_per_atom", "force_mae_ev_per_angstrom"
SIZES = {
    "new": {"energy_mean_abs_ev_per_atom": 0.5, "force_mean_abs_ev_per_angstrom": 2.0},
    "old": {"energy_mean_abs_ev_per_atom": 0.1, "force_mean_abs_ev_per_angstrom": 1.0},
    "older": {"energy_mean_abs_ev_per_atom": 0.1, "force_mean_abs_ev_per_angstrom": None},
}


def test_predicting_zero_has_a_score_of_one_whatever_the_sizes() -> None:
    zero = {
        "new": {ENERGY: 0.5, FORCE: 2.0},
        "old": {ENERGY: 0.1, FORCE: 1.0},
        "older": {ENERGY: 0.1},
    }
    assert relative_score(zero, SIZES) == pytest.approx(1.0)
    assert relative_score(zero, SIZES, held={"old", "older"}) == pytest.approx(1.0)


def test_a_label_without_signal_is_left_out() -> None:
    flat = {"new": {**SIZES["new"], "energy_mean_abs_ev_per_atom": 1e-9}}
    assert relative_score({"new": {ENERGY: 5.0, FORCE: 1.0}}, flat) == pytest.approx(0.5)


def test_what_is_held_counts_as_much_as_what_is_learned_however_many_sources_it_is() -> None:
    # New 0.2 with two labels, old and older 1.0 with three: a plain mean would be 0.68.
    errors = {
        "new": {ENERGY: 0.1, FORCE: 0.4},
        "old": {ENERGY: 0.1, FORCE: 1.0},
        "older": {ENERGY: 0.1},
    }
    assert relative_score(errors, SIZES) == pytest.approx(0.68)
    assert relative_score(errors, SIZES, held={"old", "older"}) == pytest.approx(0.6)
