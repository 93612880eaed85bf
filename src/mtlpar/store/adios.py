"""Writes with ADIOS2 and survives it: a full disk is an error like any other, not the end."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mtlpar.core.hidden import torch_hidden

with torch_hidden():
    import adios2


@contextmanager
def open_to_write(path: Path) -> Iterator[adios2.Stream]:
    """Open a new folder for the length of this block.

    Raises:
        OSError: If the system refuses to write, for instance because the disk is full.
    """
    stream = None
    try:
        stream = adios2.Stream(str(path), "w")
        with stream:
            yield stream
    except RuntimeError as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        if stream is not None and stream.engine is not None:
            # An engine that cannot be closed ends the whole process: leave it room for that.
            for file in path.iterdir():
                os.truncate(file, 0)
            with suppress(RuntimeError):
                stream.close()
        code = int(number[1])
        raise OSError(code, os.strerror(code)) from error
