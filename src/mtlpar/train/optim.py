"""Optimizer, learning-rate schedule and gradient clipping."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mtlpar.model.multitask import MultiTaskModel
from mtlpar.train.settings import TrainSettings

_FINAL_FRACTION = 0.01


def make_optimizer(model: MultiTaskModel, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over the parameters that this rank holds."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def rate_factor(step: int, *, total_steps: int, settings: TrainSettings) -> float:
    """Learning rate of a step, as a fraction of the peak.

    Linear warm-up, then constant, or a half cosine down to one per cent of the peak.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    span = max(1, total_steps - settings.warmup_steps)
    progress = min(1.0, (step - settings.warmup_steps) / span)
    return _FINAL_FRACTION + (1 - _FINAL_FRACTION) * 0.5 * (1 + math.cos(math.pi * progress))


def clip_gradients(model: MultiTaskModel, max_norm: float | None) -> Tensor:
    """Clip encoder and branches, each by its own norm, and return the encoder's norm.

    A norm over everything would need another collective and would let one branch's outlier shrink
    the steps of all others.
    """
    limit = math.inf if max_norm is None else max_norm
    for branch in model.heads.values():
        nn.utils.clip_grad_norm_(branch.parameters(), limit)
    return nn.utils.clip_grad_norm_(model.encoder.parameters(), limit)
