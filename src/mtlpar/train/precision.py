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
def matrix_products(settings: TrainSettings) -> Iterator[None]:
    """Multiply float32 matrices as the settings say, forwards and backwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if settings.precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def arithmetic(settings: TrainSettings, device: torch.device) -> Iterator[None]:
    """Compute forwards in the precision of the settings for as long as the block lasts."""
    enabled = settings.precision == "bf16"
    with (
        matrix_products(settings),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled),
    ):
        yield
