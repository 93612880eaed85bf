"""Optimizer, gradient clipping and averaged weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mtlpar.model.multitask import MultiTaskModel
from mtlpar.parallel.shard import held_here
from mtlpar.train.settings import TrainSettings


def make_optimizer(model: MultiTaskModel, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over the parameters that move and that this rank holds.

    Encoder and branches are groups of their own: the fused update takes no mixture of tensors and
    shards of them. Branches of one rate are a group. ``rate`` of a group is a factor on the
    learning rate.
    """
    rates = {name: settings.branch_rates.get(name, 1.0) for name in model.heads}
    groups: list[tuple[list[nn.Module], float]] = [
        ([model.encoder], settings.encoder_rate),
        *(
            ([model.heads[name] for name in rates if rates[name] == rate], rate)
            for rate in sorted({1.0, *rates.values()})
        ),
    ]
    return torch.optim.AdamW(
        [
            {
                "params": [p for one in parts for p in one.parameters() if p.requires_grad],
                "rate": rate,
            }
            for parts, rate in groups
        ],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def clip_gradients(model: MultiTaskModel, max_norm: float | None) -> Tensor:
    """Clip encoder and branches, each by its own norm, and return the encoder's norm.

    A norm over everything would need another collective and would let one branch's outlier shrink
    the steps of all others.
    """
    limit = math.inf if max_norm is None else max_norm
    for branch in model.heads.values():
        _clip(branch, limit)
    return _clip(model.encoder, limit)


@torch.no_grad()
def _clip(part: nn.Module, limit: float) -> Tensor:
    gradients = [p.grad for p in part.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        # Of an encoder in shards: a sum over the ranks that hold it.
        norm = norm.full_tensor()
    if gradients:
        # As `nn.utils.clip_grads_with_norm_` does it, which knows tensors in shards only as such.
        factor = torch.clamp(limit / (norm + 1e-6), max=1.0)
        torch._foreach_mul_(held_here(gradients), factor)
    return norm


class WeightAverage:
    """Exponential moving average of a model's weights.

    The decay starts small and approaches its final value, min(decay, (1 + n) / (10 + n)) after n
    updates, so that a short training is not dominated by the initial weights.

    Attributes:
        model: A copy of the model that holds the averages.
    """

    def __init__(self, model: MultiTaskModel, decay: float) -> None:
        """Start from the model's present weights."""
        self.model = copy.deepcopy(model).requires_grad_(requires_grad=False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: MultiTaskModel, *, updates: int) -> None:
        """Take in the weights after an optimizer step.

        Args:
            model: The model that is being trained.
            updates: Steps taken before this one.
        """
        decay = min(self.decay, (1 + updates) / (10 + updates))
        averages, weights = (held_here(one.parameters()) for one in (self.model, model))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, 1 - decay)
