"""Prepares the next items of an iterator in a thread, while the caller works on the last one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from typing import Final, TypeVar

Item = TypeVar("Item")

_POLL_S: Final = 0.05


def ahead(items: Iterable[Item], *, depth: int = 4) -> Iterator[Item]:
    """Iterate over ``items`` with up to ``depth`` of them computed in advance, in order.

    Worth it where computing an item releases the interpreter, as decompression does. What the
    iterator raises is raised here, after the items before it.
    """
    queue: Queue[tuple[Item | None, BaseException | None]] = Queue(depth)
    stopped = Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(Full):
                queue.put((item, error), timeout=_POLL_S)
                return

    def work() -> None:
        try:
            for item in items:
                put(item, None)
                if stopped.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:  # noqa: BLE001 - it is raised in the other thread
            put(None, error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
