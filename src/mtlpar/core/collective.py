"""A mark for what all ranks call together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_MARK: Final = "waits_for_other_ranks"


def collective(function: F) -> F:
    """Mark a function in which ranks wait for each other.

    All ranks of the run, or of the group that it works on, call it equally often and in the same
    order; one that leaves it out leaves the others waiting. Whoever calls a marked function is
    marked too, up to the command that ranks run. ``tests/unit/test_collectives.py`` and
    ``tests/parity/test_collectives.py`` hold the code to that.
    """
    setattr(function, _MARK, True)
    return function


def is_collective(function: Callable[..., Any]) -> bool:
    """Whether a function is marked."""
    return hasattr(function, _MARK)
