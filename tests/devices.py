"""The devices of this machine: what is computed on one must hold on all."""

from __future__ import annotations

import torch

from mtlpar.graph.collate import CPU

DEVICES = [CPU]
if (accelerator := torch.accelerator.current_accelerator(check_available=True)) is not None:
    DEVICES.append(accelerator)
