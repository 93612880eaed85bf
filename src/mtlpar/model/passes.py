"""The order of backward passes, for functions that are differentiated by hand.

Autograd asks a function written by hand for all its gradients, whether anybody wants them or not,
and second derivatives by everything would cost more than they save. A conservative model has a
fixed order: the first backward pass finds forces, the gradient of its energy by the geometry alone;
all later ones find gradients of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class ForcesFirst:
    """Which of the two passes is at hand.

    Attributes:
        are_sought: Whether a backward pass finds forces now.
    """

    def __init__(self) -> None:
        self.are_sought = True


_promised: ContextVar[ForcesFirst | None] = ContextVar("forces_first", default=None)


@contextmanager
def forces_first() -> Iterator[None]:
    """Promise an order of the backward passes through everything that is computed inside.

    Passes inside the block are for the geometry alone, later ones for all but the geometry.
    """
    promise = ForcesFirst()
    token = _promised.set(promise)
    try:
        yield
    finally:
        _promised.reset(token)
        promise.are_sought = False


def forces_come_first() -> ForcesFirst | None:
    """The promise that holds for what is computed now, if there is one."""
    return _promised.get()
