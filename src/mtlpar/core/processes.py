"""Work spread over processes, with results in order and no more of them in memory than needed."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """Processes that live as long as the ``with`` block; one job means this process, and no others.

    A task and its result travel by pickle, and the function must be at the top of a module. If a
    process is killed, the block ends with a `ValueError`.
    """

    def __init__(self, jobs: int, *, hint: str) -> None:
        """Prepare ``jobs`` processes.

        Args:
            jobs: Tasks worked on at the same time.
            hint: What to change if a worker runs out of memory, for the error.

        Raises:
            ValueError: If there is less than one job.
        """
        if jobs < 1:
            raise ValueError(f"expected at least one job, got {jobs}")
        self._jobs = jobs
        self._hint = hint
        # Forked children would inherit locks of libraries that have threads.
        self._pool = (
            ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_set_up_worker)
            if jobs > 1
            else None
        )

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        """Start one task; without processes it is done when this returns."""
        if self._pool is not None:
            return self._pool.submit(function, task)
        future: Future[Result] = Future()
        future.set_result(function(task))
        return future

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task, in order.

        Two results per job at most wait to be taken, so a slow taker does not fill the memory.
        """
        ahead = 2 * self._jobs if self._pool is not None else 0
        waiting: deque[Future[Result]] = deque()
        for task in tasks:
            waiting.append(self.submit(function, task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise ValueError(
                f"a worker process was killed, most likely because memory ran out; {self._hint}"
            ) from error


def _set_up_worker() -> None:
    # Ctrl-C reaches the whole group of processes; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this process when its parent is gone, killed ones included: no orphan keeps writing."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
