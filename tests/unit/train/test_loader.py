"""The background thread delivers in order, passes errors on, and ends."""

from __future__ import annotations

import threading
import time

import pytest

from mtlpar.train.loader import prefetch


def _threads() -> int:
    return sum(thread.name == "mtlpar-loader" for thread in threading.enumerate())


def test_items_come_in_order() -> None:
    assert list(prefetch(lambda item: item**2, range(20))) == [item**2 for item in range(20)]
    assert _threads() == 0


def test_an_error_in_the_thread_is_raised_where_its_item_would_have_come() -> None:
    def make(item: int) -> int:
        if item == 3:
            raise ValueError("structure 3 is damaged")
        return item

    batches = prefetch(make, range(10))
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="structure 3"):
        next(batches)
    assert _threads() == 0


def test_work_ahead_is_bounded() -> None:
    made = []
    batches = prefetch(lambda item: made.append(item) or item, range(100), ahead=2)
    next(batches)
    time.sleep(0.2)
    # One taken, two waiting, one in the thread's hands.
    assert len(made) <= 4
    batches.close()
    assert _threads() == 0
