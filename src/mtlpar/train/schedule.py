"""How long a training runs and how its learning rate falls.

The rate rises in the warm-up, keeps to its schedule, and falls in a cooldown at the end. Until the
cooldown begins nothing depends on how many epochs there will be, so a longer training is the same
as a shorter one up to there (Hägele et al. 2024, arXiv 2405.18392). A score that no longer gets
better begins the cooldown early: no training ends at a high rate.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mtlpar.train.settings import TrainSettings

_FINAL_FRACTION = 0.01


class Cooldown(NamedTuple):
    """The epochs in which the rate falls to its end.

    Attributes:
        start: Epochs before it.
        end: Epochs of the whole training.
    """

    start: int
    end: int


def cooldown(settings: TrainSettings, *, early_start: int | None) -> Cooldown:
    """When the rate falls.

    A cooldown that begins early lasts as long as that of a training planned to be so short.

    Args:
        settings: Epochs, schedule, and the cooldown's share of the epochs.
        early_start: Epochs after which patience ran out.
    """
    share, epochs = settings.cooldown, settings.epochs
    if early_start is not None:
        length = round(early_start * share / (1 - share))
        return Cooldown(early_start, min(epochs, early_start + length))
    if settings.schedule == "cosine":
        return Cooldown(epochs, epochs)
    return Cooldown(epochs - round(share * epochs), epochs)


def settled_from(settings: TrainSettings, *, early_start: int | None) -> int | None:
    """First epoch that ends with a low rate, at most a quarter of the highest; None if none does.

    A half cosine is there after two thirds of the epochs, 1 - sqrt(t) at t = 9/16; where both fall
    together, which is lower, the earlier of the two.

    Args:
        settings: Epochs, schedule, and the cooldown's share of the epochs.
        early_start: Epochs after which patience ran out.
    """
    start, end = cooldown(settings, early_start=early_start)
    epochs = [start + math.ceil(9 * (end - start) / 16)] if end > start else []
    if settings.schedule == "cosine":
        epochs.append(math.ceil(2 * settings.epochs / 3))
    return min(epochs, default=None)


def learning_rate(
    step: int,
    *,
    steps_per_epoch: int,
    plateaus: int,
    early_start: int | None,
    settings: TrainSettings,
) -> float:
    """Learning rate of a step.

    Linear warm-up, then the schedule: constant, a half cosine down to one per cent of the peak, or
    a constant that each plateau multiplies by ``plateau_factor``. In the cooldown the rate falls
    along 1 - sqrt(t) to one per cent of what it was, with t from 0 to 1 (the same source).

    Args:
        step: Steps taken before.
        steps_per_epoch: Steps of an epoch.
        plateaus: Plateaus of the validation score so far.
        early_start: Epochs after which patience ran out.
        settings: Peak, schedule, epochs.
    """
    start, end = (
        epochs * steps_per_epoch for epochs in cooldown(settings, early_start=early_start)
    )
    total = settings.epochs * steps_per_epoch
    rate = _scheduled(min(step, start), total_steps=total, plateaus=plateaus, settings=settings)
    if step < start:
        return rate
    fallen = min(1.0, (step - start) / max(1, end - start))
    return rate * (_FINAL_FRACTION + (1 - _FINAL_FRACTION) * (1 - math.sqrt(fallen)))


def _scheduled(step: int, *, total_steps: int, plateaus: int, settings: TrainSettings) -> float:
    """Rate of a step before the cooldown."""
    peak = settings.learning_rate
    if step < settings.warmup_steps:
        return peak * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "plateau":
        return peak * settings.plateau_factor**plateaus
    span = max(1, total_steps - settings.warmup_steps)
    progress = min(1.0, (step - settings.warmup_steps) / span)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (_FINAL_FRACTION + (1 - _FINAL_FRACTION) * cosine)
