"""Rates fall as documented, and averages of weights are averages."""

from __future__ import annotations

import pytest
import torch
from training import BRANCHES, MODEL, TRAIN

from mtlpar.model.multitask import MultiTaskModel
from mtlpar.train.optim import WeightAverage, learning_rate


def _rates(schedule: str, *, plateaus: int = 0) -> list[float]:
    settings = TRAIN.model_copy(
        update={"schedule": schedule, "warmup_steps": 4, "learning_rate": 2.0}
    )
    return [
        learning_rate(step, total_steps=20, plateaus=plateaus, settings=settings)
        for step in range(20)
    ]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
def test_every_schedule_warms_up_linearly_to_the_peak(schedule: str) -> None:
    assert _rates(schedule)[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


def test_cosine_ends_near_one_per_cent_and_plateaus_halve_the_rate() -> None:
    cosine = _rates("cosine")[4:]
    assert cosine == sorted(cosine, reverse=True)
    assert 0.02 < cosine[-1] < 0.05
    assert _rates("plateau", plateaus=2)[10] == pytest.approx(0.5)


def test_the_average_of_constant_weights_is_those_weights_and_it_lags_behind_a_jump() -> None:
    model = MultiTaskModel(MODEL, BRANCHES, seed=0)
    average = WeightAverage(model, 0.9)
    before = model.heads["qm7x"].energy[0].weight.clone()
    average.update(model, updates=0)
    torch.testing.assert_close(average.model.heads["qm7x"].energy[0].weight, before)
    with torch.no_grad():
        model.heads["qm7x"].energy[0].weight.add_(1.0)
    for update in range(200, 203):
        average.update(model, updates=update)
    # Three updates at the full decay: 1 - 0.9^3 of the jump.
    torch.testing.assert_close(average.model.heads["qm7x"].energy[0].weight, before + 0.271)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
