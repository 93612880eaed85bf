"""Operations that run again and again on memory that stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol


class Do(Protocol):
    """Whoever computes: at once, or when a program runs."""

    def __call__(self, operation: Callable[..., object], *operands: Any, **named: Any) -> None:
        """Take an operation and its operands."""


def at_once(operation: Callable[..., object], *operands: Any, **named: Any) -> None:
    """Compute now."""
    operation(*operands, **named)


class Program:
    """Operations with their operands, written once and run at every step of a simulation.

    To slice a tensor, transpose it or allocate another takes PyTorch as long as a small product of
    matrices. Here operands are views of memory that stays, made when the program is written, and
    results go into such memory: a step is nothing but the numbers.

    Examples:
        >>> do = Program()
        >>> do(torch.mm, values, weight.T, out=product)
        >>> do.run()
    """

    def __init__(self) -> None:
        self._calls: list[Callable[[], object]] = []

    @classmethod
    def of(cls, write: Callable[[Do], None]) -> Program:
        """Whatever a function does."""
        program = cls()
        write(program)
        return program

    def __call__(self, operation: Callable[..., object], *operands: Any, **named: Any) -> None:
        """Write down another operation; nothing is computed."""
        self._calls.append(partial(operation, *operands, **named))

    def run(self) -> None:
        """Compute all of it, with what the memory holds now."""
        for call in self._calls:
            call()
