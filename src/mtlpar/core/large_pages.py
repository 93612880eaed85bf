"""Memory in large pages, for numbers that are gone through again and again."""

from __future__ import annotations

import mmap
from typing import Final

import torch
from torch import Tensor

# A large page of x86-64; less than some of them gains nothing.
_LEAST_BYTES: Final = 2 * 2**20


def empty_in_large_pages(count: int, dtype: torch.dtype) -> Tensor:
    """Memory for numbers on the CPU, (count,); what it holds at first is not defined.

    A core remembers where some 2,000 pages lie, which of 4 kB are 8 MB. Where more than that is
    gone through in every step, looking up pages takes a twentieth of the step. Linux gives pages of
    2 MB to whoever asks for them (transparent huge pages); elsewhere the memory is as usual.
    """
    size = count * dtype.itemsize
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or size < _LEAST_BYTES:
        return torch.empty(count, dtype=dtype, device="cpu")
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(advice)
    except OSError:
        # A kernel without large pages.
        return torch.empty(count, dtype=dtype, device="cpu")
    return torch.frombuffer(memory, dtype=dtype)
