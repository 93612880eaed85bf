"""Opens raw files by what their first bytes say, not by their names."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

from mtlpar.core.first_bytes import BZIP2, GZIP, HEAD_BYTES, XZ, first_bytes, kind_of, unlike

DOWNLOAD_AGAIN: Final = (
    "put the published file in its place, or remove it and run mtlpar download again"
)
"""Advice about a raw file that is another kind of file."""

_OPENERS: Final[dict[str | None, Callable[[Path], Any]]] = {
    GZIP: gzip.open,
    BZIP2: bz2.open,
    XZ: lzma.open,
}


def kind_of_file(path: Path) -> str | None:
    """What a file is, looked at through gzip, bzip2 and xz; None for text and what is unknown.

    Raises:
        ValueError: If it is no file.
    """
    try:
        with open_unpacked(path) as stream:
            return kind_of(stream.read(HEAD_BYTES))
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile):
        return None
    except OSError as error:
        # bzip2 has no error of its own.
        if error.errno is not None:
            raise
        return None


def compression_of(path: Path) -> str | None:
    """As what a file is compressed; None if it is not, or in a way that is not read."""
    kind = kind_of(_head(path))
    return kind if kind in _OPENERS else None


def open_unpacked(path: Path) -> IO[bytes]:
    """Open a file for reading, through gzip, bzip2 or xz where it is compressed.

    The first bytes say so, not the name.
    """
    opened: IO[bytes] = _OPENERS.get(kind_of(_head(path)), Path.open)(path, "rb")
    return opened


def require_kind(path: Path, expected: str, *, name: str | None = None) -> None:
    """Refuse a raw file that is something else, which libraries would call damaged.

    Args:
        path: The file.
        expected: One of the kinds here.
        name: What people know it by; by default its path.

    Raises:
        ValueError: If it begins otherwise.
    """
    head = _head(path)
    if kind_of(head) != expected:
        raise ValueError(f"{name or path} {unlike(head, expected, DOWNLOAD_AGAIN)}")


def no_file(path: Path) -> str:
    """What to say, after its name, of what is no file."""
    return f"is {'a folder' if path.is_dir() else 'missing'}, expected a file"


def _head(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} {no_file(path)}; {DOWNLOAD_AGAIN}")
    return first_bytes(path)
