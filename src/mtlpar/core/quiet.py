"""Keeps from users what libraries warn each other of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_jit_warnings() -> Iterator[None]:
    """Ignore that torch.jit is deprecated, by its words: the kind of warning changes with torch.

    torch_geometric uses it when it is imported, and some engines read nothing else.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        yield
