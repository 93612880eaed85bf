"""Which weights of a model move when it is trained from another one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mtlpar.core.hashing import derive_seed
from mtlpar.model.multitask import MultiTaskModel


def set_moving(model: MultiTaskModel, mode: str, *, seed: int) -> None:
    """Hold weights of the encoder still; those of the branches always move.

    Args:
        model: A model with the weights to start from.
        mode: ``full``: all weights move; ``heads``: none of the encoder; ``last:N``: its last N
            layers and what follows them; ``lora:R``: updates of rank R of its matrices.
        seed: The run's seed; the updates start from random directions of length zero.

    Raises:
        ValueError: If the encoder has fewer layers than that, or no matrix of a larger rank.
    """
    kind, _, number = mode.partition(":")
    if kind == "full":
        return
    encoder = model.encoder
    encoder.requires_grad_(requires_grad=False)
    if kind == "last":
        if int(number) > len(encoder.layers):
            raise ValueError(
                f"mode {mode}: the encoder has {len(encoder.layers)} layers; expected at most "
                f"last:{len(encoder.layers)}, or full to move all of it"
            )
        for part in (*encoder.layers[-int(number) :], *_after_layers(encoder)):
            part.requires_grad_(requires_grad=True)
    elif kind == "lora":
        generator = torch.Generator().manual_seed(derive_seed(seed, "lora"))
        linear = [part for part in encoder.layers.modules() if isinstance(part, nn.Linear)]
        largest = max(min(part.weight.shape) for part in linear)
        if int(number) >= largest:
            # Otherwise nothing of the encoder would move.
            raise ValueError(
                f"mode {mode}: the encoder's largest matrices have rank {largest}; expected less"
            )
        for part in linear:
            if min(part.weight.shape) > int(number):
                update = LowRankUpdate(part.weight, int(number), generator)
                parametrize.register_parametrization(part, "weight", update)


def merge_updates(model: MultiTaskModel) -> None:
    """Add low-rank updates to the matrices that they belong to."""
    for part in list(model.modules()):
        if parametrize.is_parametrized(part):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)


class LowRankUpdate(nn.Module):
    """W + U D with U (outputs, R) and D (R, inputs), after LoRA (Hu et al., arXiv 2106.09685)."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        """Draw D; U is zero, so that nothing has changed yet.

        Args:
            weight: (outputs, inputs).
            rank: R.
            generator: Where D is drawn from.
        """
        super().__init__()
        outputs, inputs = weight.shape
        drawn = torch.randn(rank, inputs, generator=generator) / inputs**0.5
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))
        self.down = nn.Parameter(drawn.to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """The matrix with its update."""
        return weight + self.up @ self.down


def _after_layers(encoder: nn.Module) -> list[nn.Module]:
    """Parts of an encoder that come behind its last layer."""
    names = [name for name, _ in encoder.named_children()]
    behind = names[names.index("layers") + 1 :]
    return [encoder.get_submodule(name) for name in behind]
