"""How fast the encoder of a model moves that is fine-tuned."""

from __future__ import annotations

from typing import Final

_SLOW: Final = 0.3


def encoder_rate(mode: str, *, same_forces: bool) -> float:
    """Learning rate of an encoder as a multiple of that of the branches.

    An encoder has learned from far more than the new data can tell, so it moves slower than the
    branches: on new and on old data that is better than the full rate (`docs/finetuning.md`). Where
    forces become gradients it has to move far, and updates of low rank cannot take it far anyway.

    Args:
        mode: What moves; see `mtlpar.model.moving.set_moving`.
        same_forces: Whether forces stay direct or conservative as they were.
    """
    moves_whole_layers = mode.partition(":")[0] in {"full", "last"}
    return _SLOW if moves_whole_layers and same_forces else 1.0
