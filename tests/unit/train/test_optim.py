"""Averages of weights are averages."""

from __future__ import annotations

import torch
from training import BRANCHES, MODEL

from mtlpar.model.multitask import MultiTaskModel
from mtlpar.train.optim import WeightAverage


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
