"""Recognises what a file is by its first bytes, so that a foreign one is called by its name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_HEAD_BYTES: Final = 512
_COMPRESSIONS: Final[dict[bytes, Callable[[Path], Any]]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_TRAJECTORY: Final = "an ASE trajectory"
_DATABASE: Final = "an SQLite database"
_LMDB: Final = "an LMDB database"
# Where in the file which bytes stand.
_KINDS: Final = (
    (0, b"- of Ulm", _TRAJECTORY),
    (0, b"SQLite format 3\x00", _DATABASE),
    (16, b"\xde\xc0\xef\xbe", _LMDB),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"PK\x03\x04", "a zip archive (perhaps of NumPy arrays)"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"CDF", "a NetCDF file"),
    (0, b"\x80\x04\x95", "a Python pickle"),
    (0, b"\x80\x05\x95", "a Python pickle"),
    (0, b"ITEM: ", "a LAMMPS dump"),
    (0, b"<?xml", "an XML file (vasprun.xml?)"),
)
FORMATS: Final = {_DATABASE: "db", _LMDB: "db", _TRAJECTORY: "traj"}
"""Formats of custom sources that are recognised by the kind of the file; others are text."""


def kind_of_file(path: Path) -> str | None:
    """What a file is, looked at through gzip, bzip2 and xz; None for text and what is unknown."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    for magic, open_compressed in _COMPRESSIONS.items():
        if head.startswith(magic):
            try:
                with open_compressed(path) as stream:
                    head = stream.read(_HEAD_BYTES)
            except (OSError, EOFError, lzma.LZMAError, zlib.error):
                return None
    return next(
        (kind for start, magic, kind in _KINDS if head[start:].startswith(magic)),
        None,
    )
