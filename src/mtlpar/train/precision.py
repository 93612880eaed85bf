"""Arithmetic of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mtlpar.train.settings import TrainSettings


def weight_dtype(settings: TrainSettings) -> torch.dtype:
    """Type of weights, inputs and outputs."""
    return torch.float64 if settings.precision == "float64" else torch.float32


@contextmanager
def arithmetic(settings: TrainSettings, device: torch.device) -> Iterator[None]:
    """Multiply matrices in the precision of the settings for as long as the block lasts."""
    before = torch.get_float32_matmul_precision()
    if settings.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=settings.precision == "bf16"
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
