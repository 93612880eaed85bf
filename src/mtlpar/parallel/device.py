"""The device that a rank computes on: an accelerator of any kind, or the CPU."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def local_device(local_rank: int = 0) -> torch.device:
    """The accelerator of a rank on its node, or the CPU.

    Works whether a rank sees one device or all of its node.
    """
    import torch

    for kind, module in (("cuda", torch.cuda), ("xpu", torch.xpu)):
        if module.is_available():
            index = local_rank % module.device_count()
            module.set_device(index)
            return torch.device(kind, index)
    return torch.device("cpu")


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was given; a CPU has."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory used so far: of the device, or of the process on a CPU."""
    import torch

    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def start_peak_bytes(device: torch.device) -> int:
    """Reset the peak, and return what is left of the one before: a CPU's stays."""
    import torch

    if device.type == "cpu":
        return peak_memory_bytes(device)
    torch.accelerator.reset_peak_memory_stats(device)
    return 0
