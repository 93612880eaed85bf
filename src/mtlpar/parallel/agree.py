"""What all ranks decide together, so that none goes on alone and none is left waiting."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

_DEAD: Final = "mtlpar/dead"


class AgreedError(ValueError):
    """A mistake that every rank raises at the same point, with the same message."""


class Interrupted(Exception):  # noqa: N818 - not an error: the run is to be continued
    """The run stopped early in good order, on every rank, and can be continued."""


class RankDiedError(RuntimeError):
    """Another rank died; the message says which, and that is all there is to say."""


def raise_together(message: str | None) -> None:
    """Raise the messages of all ranks on all ranks; all must call this together.

    Args:
        message: What is wrong on this rank, or None.

    Raises:
        AgreedError: If any rank has a message.
    """
    messages = gather(message)
    told = [
        f"rank {rank}: {text}" if len(messages) > 1 else text
        for rank, text in enumerate(messages)
        if text is not None
    ]
    if told:
        raise AgreedError("; ".join(told))


def check_same(facts: Mapping[str, str], *, advice: str) -> None:
    """Check that all ranks were given the same; all must call this together.

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


class Roll:
    """Which process each rank is, to say later which ones have died.

    Whoever dies takes others along within seconds: they fail, or are ended. The ranks that are
    found dead first are therefore remembered, and later ones are not blamed. A rank sees the
    processes of its node only; what others see they can tell on a board.
    """

    def __init__(self, processes: Sequence[tuple[str, int]] = ()) -> None:
        """Note who can be seen: live processes of this node, and of this container.

        Args:
            processes: Name of the node and number of the process, by rank.
        """
        here = socket.gethostname()
        self._seen = {
            rank: process
            for rank, (node, process) in enumerate(processes)
            if node == here and _lives(process)
        }
        self.sees_all = len(self._seen) == len(processes)
        self._board: Store | None = None
        self._dead: tuple[int, ...] = ()
        self._is_announced = False
        self._words: Callable[[tuple[int, ...]], str] = _plain_words

    @classmethod
    def call(cls) -> Roll:
        """Let all ranks say who they are; all must call this together."""
        return cls(gather((socket.gethostname(), os.getpid())))

    def share(self, board: Store) -> None:
        """Tell the ranks of other nodes who died, and hear it from them.

        Args:
            board: A store that all ranks read and write. It is asked often, and may be gone with
                its rank: an answer should not be waited for long.
        """
        self._board = board

    def speak(self, words: Callable[[tuple[int, ...]], str]) -> None:
        """From now on say so what it means that ranks have died.

        Args:
            words: Called with their numbers, by any thread.
        """
        self._words = words

    def obituary(self, *, patience_s: float = 2.0) -> str | None:
        """What to tell the user about ranks that have died; None if nobody has.

        Args:
            patience_s: As for `dead`.
        """
        dead = self.dead(patience_s=patience_s)
        return self._words(dead) if dead else None

    def announce(self, *, rank: int, world_size: int) -> None:
        """Log, once, who has died.

        Args:
            rank: Who says it.
            world_size: Number of ranks.
        """
        if not self._is_announced:
            self._is_announced = True
            logger.error("rank %d of %d: %s", rank, world_size, self.obituary(patience_s=0))

    def dead(self, *, patience_s: float = 2.0) -> tuple[int, ...]:
        """Ranks that died first, of those that anybody can see.

        Args:
            patience_s: How long to look: connections break a little before a process is gone.
        """
        deadline = time.monotonic() + patience_s
        while not self._dead:
            self._dead = self._look()
            if time.monotonic() > deadline:
                break
            # All ranks may ask one board. Where none is needed a launcher may be about to end this
            # rank too: MPICH's leaves it a tenth of a second.
            time.sleep(0.1 if self._board else 0.005)
        return self._dead

    def _look(self) -> tuple[int, ...]:
        found = tuple(rank for rank, process in self._seen.items() if not _lives(process))
        if self._board is None:
            return found
        try:
            if found:
                # Whoever writes first is right; the others get what that rank wrote.
                told = self._board.compare_set(_DEAD, "", json.dumps(found))
            elif self._board.check([_DEAD]):
                told = self._board.get(_DEAD)
            else:
                return ()
        except RuntimeError:
            # The board went with the rank that held it.
            self._board = None
            return found
        return tuple(json.loads(told))


def _plain_words(dead: tuple[int, ...]) -> str:
    return f"{', '.join(f'rank {rank}' for rank in dead)} died; run again"


def _lives(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    try:
        # The name before it is in parentheses and may hold anything. Z: ended, not yet noticed.
        return status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        # Systems without this folder tell nothing.
        return not Path("/proc/self").exists()


def gather(value: T) -> list[T]:
    """The values of all ranks, by rank; all must call this together."""
    # The command line imports this module, and must not wait for torch to ask for help.
    import torch.distributed as dist

    if not dist.is_initialized():
        return [value]
    everyone: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone  # type: ignore[return-value]
