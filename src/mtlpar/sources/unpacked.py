"""Temporary files beside raw files, which the next run removes if a process was killed at one."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO


@contextmanager
def temporary_beside(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file in the folder of ``path`` for what this block unpacks, and remove it after.

    A process holds the lock of its file, and the kernel takes it away with the process. So a file
    of this machine that can be locked is nobody's any more. Those of other machines are left
    alone: file systems need not share locks.
    """
    prefix = f".{path.name}.{socket.gethostname()}."
    for abandoned in path.parent.glob(f"{prefix}*.tmp"):
        _remove_if_unlocked(abandoned)
    while True:
        with NamedTemporaryFile(dir=path.parent, prefix=prefix, suffix=".tmp") as stream:
            # Shared, because HDF5 locks what it reads the same way. File systems without locks
            # refuse; then nothing is ever taken for abandoned.
            with suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Another process may have looked between the last two lines and removed it.
            if Path(stream.name).exists():
                yield stream
                return
            stream.delete = False


def _remove_if_unlocked(path: Path) -> None:
    with suppress(OSError), path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
