"""What takes long to make and is read only: made by one worker, for all of them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that all workers of a run share.

    Args:
        factory: Of the worker.
        name: Name of the folder.
        make: Fills it; called by the first worker that asks, while others wait.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / name
    with (root / f"{name}.lock").open("a") as lock:
        # Let go when the file is closed, also if making it failed: the next one tries again.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / f"{name}.made").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (root / f"{name}.made").touch()
    return folder
