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


def test_a_source_that_zero_predicts_better_does_not_choose_the_epoch_for_all_others() -> None:
    # From a training of the sample: forces of nine relaxed crystals, whose ratio rises from 4 to 9
    # by chance, while energies and forces of the molecules are halved.
    sizes = {"molecules": SIZES["new"], "relaxed": SIZES["old"]}
    early, late = (
        relative_score(
            {
                "molecules": {ENERGY: part * 0.5, FORCE: part * 2.0},
                "relaxed": {ENERGY: 0.02, FORCE: ratio},
            },
            sizes,
        )
        for part, ratio in ((0.1, 4.0), (0.05, 9.0))
    )
    assert late < early


@pytest.mark.parametrize("source", ["new", "old"])
def test_a_tenth_less_error_is_worth_the_same_in_every_source(source: str) -> None:
    errors = {"new": {ENERGY: 0.001, FORCE: 0.1}, "old": {ENERGY: 0.2, FORCE: 3.0}}
    better = errors | {source: {label: 0.9 * one for label, one in errors[source].items()}}
    assert relative_score(better, SIZES) == pytest.approx(0.9**0.5 * relative_score(errors, SIZES))


def test_one_exact_label_leaves_the_others_their_say() -> None:
    exact, worse = (
        relative_score({"new": {ENERGY: 0.0, FORCE: force}}, SIZES) for force in (0.1, 0.2)
    )
    assert 0 < exact < worse


def test_what_is_held_counts_as_much_as_what_is_learned_however_many_sources_it_is() -> None:
    # New 0.2 with two labels, old and older 1.0 with three: without a weight it would be 0.53.
    errors = {
        "new": {ENERGY: 0.1, FORCE: 0.4},
        "old": {ENERGY: 0.1, FORCE: 1.0},
        "older": {ENERGY: 0.1},
    }
    assert relative_score(errors, SIZES) == pytest.approx(0.2**0.4)
    assert relative_score(errors, SIZES, held={"old", "older"}) == pytest.approx(0.6)


def test_sources_labelled_by_the_start_do_not_keep_a_fine_tuning_at_its_start() -> None:
    # Their error is nothing before the first step, so any step multiplies it; what counts is that
    # it stays small beside what the new source gains.
    first, last = (
        relative_score(
            {"new": {ENERGY: part * 0.5, FORCE: part * 2.0}, "old": {ENERGY: drift, FORCE: drift}},
            SIZES,
            held={"old"},
        )
        for part, drift in ((0.4, 1e-5), (0.1, 1e-3))
    )
    assert last < first
