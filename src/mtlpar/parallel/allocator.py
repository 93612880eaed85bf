"""How the C library hands out memory."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
# The largest that glibc takes, and about what a step on a laptop gives back and takes again.
_KEPT_BLOCK_BYTES: Final = 32 * 2**20
_KEPT_BYTES: Final = 512 * 2**20


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, up to half a GiB, instead of giving it back at once.

    Each operation of a training step frees blocks of some 100 kB that the next one asks for again.
    glibc gives such blocks back to the system, which has to find and clear their pages again: a
    tenth of a small step. Where the C library is another one, nothing happens.

    Returns:
        Whether the C library does so now.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    set_to = ((_M_MMAP_THRESHOLD, _KEPT_BLOCK_BYTES), (_M_TRIM_THRESHOLD, _KEPT_BYTES))
    return all(mallopt(option, value) == 1 for option, value in set_to)
