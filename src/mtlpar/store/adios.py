"""Writes with ADIOS2 and survives it: a full disk is an error like any other, not the end."""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import sys
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
    adios = adios2.Adios()
    stream = None
    try:
        stream = adios2.Stream(adios.declare_io("write"), str(path), "w")
        # ADIOS2 always writes the times that it took: other bytes for equal data and, where the
        # disk is full, the one error that no number comes with.
        profile = path / "profiling.json"
        profile.symlink_to(os.devnull)
        yield stream
        stream.close()
        profile.unlink()
    except RuntimeError as error:
        _never_destroy(adios)
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        _give_back_room(path)
        code = int(number[1])
        raise OSError(code, os.strerror(code)) from error
    except BaseException:
        if stream is not None:
            try:
                stream.close()
            except RuntimeError:
                _never_destroy(adios)
        raise


def _never_destroy(adios: adios2.Adios) -> None:
    """Keep all that belongs to an engine that could not write, beyond the end of Python.

    Its destructor tries to write once more, and that failure ends the process, in the middle or,
    after a clear last line, at its end.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(adios))
    atexit.register(_end_silently)


def _end_silently() -> None:
    """Suppress the page that the binding library prints about what was never destroyed."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _give_back_room(path: Path) -> None:
    """Empty the files: the engine keeps them open, so that removing them frees nothing."""
    for file in path.iterdir() if path.is_dir() else ():
        with suppress(OSError):
            os.truncate(file, 0)
