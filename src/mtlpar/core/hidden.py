"""Keeps libraries from importing torch, where only their users' tensors would need it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_hidden() -> Iterator[None]:
    """Let imports in this block find no torch, unless it has been imported already.

    adios2 and vesin import it wherever it is installed, to take tensors too. They get arrays here,
    and importing torch takes the processes that prepare data longer than all other imports.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
