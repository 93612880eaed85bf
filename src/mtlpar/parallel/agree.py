"""What all ranks decide together, so that none goes on alone and none is left waiting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from mtlpar.core.collective import collective
from mtlpar.core.system_errors import words_of

T = TypeVar("T")


class EndedTogether(Exception):  # noqa: N818 - not always an error
    """What all ranks raise at the same point with the same message.

    They may still talk to each other, and leave in order.

    Attributes:
        reports_here: Whether this rank reports it to the user: one line is enough.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        # The command line imports this module, and must not wait for torch to ask for help.
        import torch.distributed as dist

        self.reports_here = not dist.is_initialized() or dist.get_rank() == 0


class AgreedError(EndedTogether, ValueError):
    """A mistake that every rank sees."""


class Interrupted(EndedTogether):
    """The run stopped early in good order, and can be continued."""


@collective
def raise_together(message: str | None) -> None:
    """Raise the messages of all ranks on all ranks.

    Args:
        message: What is wrong on this rank, or None.

    Raises:
        AgreedError: If any rank has a message.
    """
    messages = gather(message)
    if message is not None and set(messages) == {message}:
        raise AgreedError(message)
    reported = [f"rank {rank}: {text}" for rank, text in enumerate(messages) if text is not None]
    if reported:
        raise AgreedError("; ".join(reported))


@contextmanager
@collective
def failing_together() -> Iterator[None]:
    """Raise a mistake that any rank finds in the block on all ranks, which all go through it.

    Raises:
        AgreedError: If any rank left the block with a `ValueError`.
    """
    problem = None
    try:
        yield
    except AgreedError:
        raise
    except ValueError as error:
        problem = words_of(error)
    raise_together(problem)


@collective
def check_same(facts: Mapping[str, str], *, advice: str) -> None:
    """Check that all ranks were given the same.

    Args:
        facts: Digests by what they are of. What a rank has none of is not compared.
        advice: What to do when they differ.

    Raises:
        AgreedError: If a rank has other facts than the first one that has any.
    """
    everyone = gather(dict(facts))
    first: dict[str, int] = {}
    differing = []
    for rank, theirs in enumerate(everyone):
        for name, value in theirs.items():
            other = first.setdefault(name, rank)
            expected = everyone[other][name]
            if value != expected:
                differing.append(f"rank {rank} has {name} {value!r}, rank {other} has {expected!r}")
    if differing:
        raise AgreedError(f"{'; '.join(differing[:8])}; {advice}")


@collective
def gather(value: T) -> list[T]:
    """The values of all ranks, by rank."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return [value]
    everyone: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone  # type: ignore[return-value]
