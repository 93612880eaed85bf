"""Recognises what a file is by its first bytes, so that a foreign one is called by its name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

DOWNLOAD_AGAIN: Final = (
    "put the published file in its place, or remove it and run the download stage again"
)
"""Advice about a raw file that is another kind of file."""

TRAJECTORY: Final = "an ASE trajectory"
SQLITE: Final = "an SQLite database"
LMDB: Final = "an LMDB database"
HDF5: Final = "an HDF5 file"
GZIP: Final = "a file of gzip"
BZIP2: Final = "a file of bzip2"
XZ: Final = "a file of xz"

_HEAD_BYTES: Final = 512
_OPENERS: Final[dict[str | None, Callable[[Path], Any]]] = {
    GZIP: gzip.open,
    BZIP2: bz2.open,
    XZ: lzma.open,
}
# Where in the file which bytes stand.
_KINDS: Final = (
    (0, b"\x1f\x8b", GZIP),
    (0, b"BZh", BZIP2),
    (0, b"\xfd7zXZ\x00", XZ),
    (0, b"- of Ulm", TRAJECTORY),
    (0, b"SQLite format 3\x00", SQLITE),
    (16, b"\xde\xc0\xef\xbe", LMDB),
    (0, b"\x89HDF\r\n\x1a\n", HDF5),
    (0, b"PK\x03\x04", "a zip archive (perhaps of NumPy arrays)"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"\x28\xb5\x2f\xfd", "a file of Zstandard"),
    (0, b"\x04\x22\x4d\x18", "a file of LZ4"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"CDF", "a NetCDF file"),
    *((0, b"\x80%c" % version, "a Python pickle") for version in range(2, 6)),
    (0, b"ITEM: ", "a LAMMPS dump"),
    (0, b"<?xml", "an XML file (vasprun.xml?)"),
    (0, b"data_", "a CIF file"),
    (0, b" vasp.", "an OUTCAR of VASP"),
    (0, b"version https://git-lfs", "a pointer of Git LFS in place of the file (git lfs pull)"),
    (0, b"\xff\xfe", "text in UTF-16 (save it as UTF-8)"),
    (0, b"\xfe\xff", "text in UTF-16 (save it as UTF-8)"),
    (0, bytes(64), "zeros at its beginning, as copies and downloads leave that failed"),
)
_WEB_PAGES: Final = (b"<!doctype html", b"<html")


def kind_of(head: bytes) -> str | None:
    """What a file with these first bytes is; None for other text and what is unknown."""
    if head.lstrip().lower().startswith(_WEB_PAGES):
        return "a web page (of a login or an error?)"
    return next((kind for start, magic, kind in _KINDS if head[start:].startswith(magic)), None)


def kind_of_file(path: Path) -> str | None:
    """What a file is, looked at through gzip, bzip2 and xz; None for text and what is unknown.

    Raises:
        ValueError: If it is no file.
    """
    try:
        with open_unpacked(path) as stream:
            return kind_of(stream.read(_HEAD_BYTES))
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


def unlike(head: bytes, expected: str) -> str:
    """What to say, after its name, of a file that begins otherwise than expected.

    Args:
        head: Its first bytes.
        expected: What it should be.
    """
    kind = kind_of(head)
    found = f"is {kind}" if kind else f"begins with {head[:40]!r}" if head else "is empty"
    return f"{found}, expected {expected}"


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
        raise ValueError(f"{name or path} {unlike(head, expected)}; {DOWNLOAD_AGAIN}")


def no_file(path: Path) -> str:
    """What to say, after its name, of what is no file."""
    return f"is {'a folder' if path.is_dir() else 'missing'}, expected a file"


def _head(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} {no_file(path)}; {DOWNLOAD_AGAIN}")
    with path.open("rb") as stream:
        return stream.read(_HEAD_BYTES)
