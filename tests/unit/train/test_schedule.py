"""Rates rise, keep and fall as documented; what comes before a cooldown does not know its end."""

from __future__ import annotations

from typing import Any

import pytest
from training import TRAIN

from mtlpar.train.schedule import Cooldown, cooldown, learning_rate, settled_from

STEPS = 5


def _rates(*, plateaus: int = 0, early_start: int | None = None, **changes: Any) -> list[float]:
    """Rates of all steps; ten epochs of five steps unless said otherwise."""
    changed = {"epochs": 10, "warmup_steps": 4, "learning_rate": 2.0, **changes}
    settings = TRAIN.model_copy(update=changed)
    end = cooldown(settings, early_start=early_start).end
    return [
        learning_rate(
            step,
            steps_per_epoch=STEPS,
            plateaus=plateaus,
            early_start=early_start,
            settings=settings,
        )
        for step in range(end * STEPS)
    ]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
def test_every_schedule_warms_up_linearly_to_the_peak(schedule: str) -> None:
    assert _rates(schedule=schedule)[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


def test_cosine_ends_near_one_per_cent_and_plateaus_halve_the_rate() -> None:
    cosine = _rates(schedule="cosine")[4:]
    assert cosine == sorted(cosine, reverse=True)
    assert 0.02 < cosine[-1] < 0.025
    assert _rates(schedule="plateau", plateaus=2)[10] == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_a_cooldown_falls_from_the_rate_before_it_to_one_per_cent(schedule: str) -> None:
    rates = _rates(schedule=schedule, cooldown=0.4)
    assert rates[4:30] == [2.0] * 26
    falling = rates[30:]
    assert falling == sorted(falling, reverse=True)
    # A quarter of the way is half of the fall.
    assert falling[5] == pytest.approx(2.0 * (0.01 + 0.99 * 0.5))
    assert 0.02 < falling[-1] < 0.08


def test_before_the_cooldown_rates_do_not_depend_on_the_epochs() -> None:
    # What lets a longer training continue a shorter one.
    short, long = (_rates(schedule="constant", cooldown=0.4, epochs=n) for n in (10, 100))
    assert short[:30] == long[:30]
    assert short[31] != long[31]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
def test_a_training_out_of_patience_still_ends_at_a_low_rate(schedule: str) -> None:
    changes = {"schedule": schedule, "cooldown": 0.4, "epochs": 100}
    whole, rates = _rates(**changes), _rates(early_start=9, **changes)
    # Nine epochs before it and six of it: as if fifteen had been planned.
    assert len(rates) == 15 * STEPS
    assert rates[: 9 * STEPS] == whole[: 9 * STEPS]
    assert rates[-1] < 0.1 * rates[9 * STEPS]


def test_a_cooldown_never_outlasts_the_epochs_that_were_asked_for() -> None:
    settings = TRAIN.model_copy(update={"epochs": 10, "schedule": "cosine", "cooldown": 0.4})
    assert cooldown(settings, early_start=9) == Cooldown(9, 10)
    assert cooldown(settings, early_start=None) == Cooldown(10, 10)


@pytest.mark.parametrize(
    ("options", "early_start"),
    [
        ({"schedule": "cosine", "epochs": 3}, None),
        ({"schedule": "cosine", "epochs": 16}, None),
        ({"schedule": "cosine", "epochs": 30}, 16),
        ({"schedule": "constant", "epochs": 16}, None),
        ({"schedule": "constant", "epochs": 100, "cooldown": 0.2}, 12),
        ({"schedule": "plateau", "epochs": 20}, None),
    ],
)
def test_from_where_rates_are_low_no_rate_is_above_a_quarter_and_those_before_are(
    options: dict[str, Any], early_start: int | None
) -> None:
    # No warm-up: its steps would push the cosine back by a part of an epoch.
    rates = [*_rates(early_start=early_start, warmup_steps=0, **options), 0.0]
    settled = settled_from(TRAIN.model_copy(update=options), early_start=early_start)
    assert settled is not None
    assert max(rates[settled * STEPS :]) <= 0.25 * 2.0 + 0.02
    # Where a cosine and a cooldown fall together it is low a little earlier.
    assert rates[(settled - 1) * STEPS] > (0.25 if options["epochs"] != 30 else 0.2) * 2.0


def test_a_rate_that_never_falls_is_never_low() -> None:
    settings = TRAIN.model_copy(update={"schedule": "constant", "cooldown": 0.0, "epochs": 9})
    assert settled_from(settings, early_start=None) is None
    assert settled_from(settings, early_start=4) is None
