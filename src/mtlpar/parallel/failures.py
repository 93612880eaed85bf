"""Detects which ranks are lost: dead, or hanging where others have given up."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

logger = logging.getLogger(__name__)

# Connections break a little before a process is gone; ranks of other nodes say so a little later.
_PATIENCE_S: Final = 2.0
_TOLD_PATIENCE_S: Final = 6.0
_REPORT_GRACE_S: Final = 3.0
_REPORT_LIMIT_S: Final = 15.0
_PASS_ON_S: Final = 1.0
_DEAD: Final = "mtlpar/dead"
_GAVE_UP: Final = "mtlpar/gave-up"
_REPORTS: Final = "mtlpar/reports"
# As gloo says it: a partner that is there, but does not come.
_TIMED_OUT: Final = "Timed out waiting"
_LOOK_INTERVAL_S: Final = 0.1


class RankLostError(RuntimeError):
    """Another rank is lost; the message says which, and that is all there is to say."""


class FailureDetector:
    """Knows the process of each rank, to report later which ones are lost.

    Whoever dies takes others along within seconds: they fail, or are ended. The ranks that are
    found dead first are therefore remembered, and later ones are not blamed. A rank sees the
    processes of its node only; what others see they write to a store that all ranks share.
    """

    def __init__(self, processes: Sequence[tuple[str, int]] = (), *, rank: int = 0) -> None:
        """Note who can be seen: live processes of this node, and of this container.

        Args:
            processes: Name of the node and number of the process, by rank.
            rank: This rank.
        """
        here = socket.gethostname()
        self._seen = {
            rank: process
            for rank, (node, process) in enumerate(processes)
            if node == here and _lives(process)
        }
        self._rank, self._size = rank, len(processes)
        self._sees_all = len(self._seen) == len(processes)
        self._store: Store | None = None
        self._dead: tuple[int, ...] = ()
        self._is_announced = False
        self._is_counted = False
        self._lost: Sequence[int] = ()
        self._describe: Callable[[Sequence[int], str], str] = _describe_plainly

    def connect(self, store: Store) -> None:
        """Share with the other ranks which died and which gave up.

        Args:
            store: Read and written by all ranks, often. It may be gone with its rank, so its time
                limit should be short.
        """
        self._store = store

    @contextmanager
    def described_by(self, describe: Callable[[Sequence[int], str], str]) -> Iterator[None]:
        """Explain to the user in these words that ranks are lost, for as long as the block lasts.

        Args:
            describe: Called with their numbers and with what happened to them, by any thread.
        """
        self._describe = describe
        try:
            yield
        finally:
            self._describe = _describe_plainly

    def report_dead(self, *, patience_s: float = _PATIENCE_S) -> str | None:
        """A message about ranks that have died; None if none has.

        Args:
            patience_s: As for `dead`.
        """
        dead = self.dead(patience_s=patience_s)
        return self._report(dead, "died") if dead else None

    def explain(self, error: RuntimeError) -> str | None:
        """A message for the user in place of a library's; None if all ranks are well.

        Args:
            error: What a collective failed with.
        """
        report = self.report_dead(patience_s=_PATIENCE_S if self._sees_all else _TOLD_PATIENCE_S)
        if report is None and _TIMED_OUT in str(error) and (silent := self._silent()):
            return self._report(silent, "hangs, or waits for something else")
        return report

    def announce(self, text: str) -> None:
        """Log, once, which ranks are lost."""
        if not self._is_announced:
            self._is_announced = True
            logger.error("rank %d of %d: %s", self._rank, self._size, text)

    def let_others_report(self) -> None:
        """Wait until the other ranks have reported what they know, but not for ever.

        To be called before a rank ends them all: launchers end all ranks at once when one aborts,
        and drop what they have not yet passed on.
        """
        start = time.monotonic()
        more, self._is_counted = int(not self._is_counted), True
        while (reports := self._count_reports(more)) is not None and self._lost:
            if reports >= self._size - len(self._lost):
                time.sleep(_PASS_ON_S)
                return
            if time.monotonic() > start + _REPORT_LIMIT_S:
                return
            more = 0
            time.sleep(_LOOK_INTERVAL_S)
        # Who cannot be asked gets the time that a rank on an idle node takes.
        time.sleep(max(0.0, start + _REPORT_GRACE_S - time.monotonic()))

    def dead(self, *, patience_s: float = _PATIENCE_S) -> tuple[int, ...]:
        """Ranks that died first, of those that anybody can see.

        Args:
            patience_s: How long to look: connections break a little before a process is gone.
        """
        deadline = time.monotonic() + patience_s
        while not self._dead:
            self._dead = self._look()
            if time.monotonic() > deadline:
                break
            # All ranks may ask one store. Where none is needed a launcher may be about to end this
            # rank too: MPICH's leaves it a tenth of a second.
            time.sleep(0.005 if self._sees_all else _LOOK_INTERVAL_S)
        return self._dead

    def _report(self, lost: Sequence[int], what: str) -> str:
        self._lost = lost
        return self._describe(lost, what)

    def _count_reports(self, more: int) -> int | None:
        """Count reports of all ranks, with so many more; None if nobody can be asked."""
        try:
            return self._store.add(_REPORTS, more) if self._store else None
        except RuntimeError:
            # The store is gone with the rank that held it.
            self._store = None
            return None

    def _look(self) -> tuple[int, ...]:
        found = tuple(rank for rank, process in self._seen.items() if not _lives(process))
        if self._sees_all or self._store is None:
            return found
        try:
            if found:
                # Whoever writes first is right; the others get what that rank wrote.
                known = self._store.compare_set(_DEAD, "", json.dumps(found))
            elif self._store.check([_DEAD]):
                known = self._store.get(_DEAD)
            else:
                return ()
        except RuntimeError:
            # The store is gone with the rank that held it.
            self._store = None
            return found
        return tuple(json.loads(known))

    def _silent(self) -> tuple[int, ...]:
        """Ranks that do not give up, now that this one has and all must be waiting alike."""
        store = self._store
        if store is None:
            return ()
        silent = list(range(self._size))

        def ask() -> None:
            with suppress(RuntimeError):
                store.set(f"{_GAVE_UP}/{self._rank}", "yes")
                while silent:
                    silent[:] = [rank for rank in silent if not store.check([f"{_GAVE_UP}/{rank}"])]
                    time.sleep(_LOOK_INTERVAL_S)

        # Whoever hangs may hold the store, and an answer is waited for in C, for ever.
        asking = threading.Thread(target=ask, name="mtlpar-ask", daemon=True)
        asking.start()
        asking.join(_REPORT_GRACE_S)
        return (0,) if len(silent) == self._size else tuple(silent)


def _describe_plainly(lost: Sequence[int], what: str) -> str:
    return f"{', '.join(f'rank {rank}' for rank in lost)} {what}; run again"


def _lives(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    try:
        # The name before it is in parentheses and may hold anything. Z: ended, not yet noticed.
        return status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        # Systems without this folder tell nothing.
        return not Path("/proc/self").exists()
