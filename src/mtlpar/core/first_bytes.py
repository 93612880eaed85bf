"""Recognises what a file is by its first bytes, so that a foreign one is called by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

TRAJECTORY: Final = "an ASE trajectory"
SQLITE: Final = "an SQLite database"
LMDB: Final = "an LMDB database"
HDF5: Final = "an HDF5 file"
GZIP: Final = "a file of gzip"
BZIP2: Final = "a file of bzip2"
XZ: Final = "a file of xz"
ZIP: Final = "a zip archive (perhaps of NumPy arrays)"

HEAD_BYTES: Final = 512
"""As many bytes are enough to tell."""

_LFS_POINTER: Final = "a pointer of Git LFS in place of the file"
WEB_PAGE: Final = "a web page (HTML, of a login or an error?)"
_WEB_PAGES: Final = (b"<!doctype html", b"<html")
# Stores of objects say in XML that there is no such file, or that it is not for everybody.
_STORE_ERROR: Final = "a server's error in XML"
HOW_TO_FETCH: Final = {
    _LFS_POINTER: "fetch it with git lfs pull",
    WEB_PAGE: "download the file itself, by its raw address and logged in where that is asked",
    _STORE_ERROR: "download the file itself, by an address that its error does not complain about",
}
"""What to do about what lies where a file was not fetched, by its kind."""

# Where in the file which bytes stand.
_KINDS: Final = (
    (0, b"\x1f\x8b", GZIP),
    (0, b"BZh", BZIP2),
    (0, b"\xfd7zXZ\x00", XZ),
    (0, b"- of Ulm", TRAJECTORY),
    (0, b"SQLite format 3\x00", SQLITE),
    (16, b"\xde\xc0\xef\xbe", LMDB),
    (0, b"\x89HDF\r\n\x1a\n", HDF5),
    (0, b"PK\x03\x04", ZIP),
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
    (0, b"version https://git-lfs", _LFS_POINTER),
    (0, b"\xff\xfe", "text in UTF-16 (save it as UTF-8)"),
    (0, b"\xfe\xff", "text in UTF-16 (save it as UTF-8)"),
    (0, bytes(64), "zeros at its beginning, as copies and downloads leave that failed"),
)


def first_bytes(path: Path) -> bytes:
    """As many bytes of a file as tell what it is."""
    with path.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def kind_of(head: bytes) -> str | None:
    """What a file with these first bytes is; None for other text and what is unknown."""
    text = head.lstrip().lower()
    if text.startswith(_WEB_PAGES):
        return WEB_PAGE
    if text.startswith((b"<?xml", b"<error")) and b"<error>" in text:
        return _STORE_ERROR
    return next((kind for start, magic, kind in _KINDS if head[start:].startswith(magic)), None)


def refuse_stand_in(path: Path, head: bytes | None = None) -> None:
    """Refuse what only stands for a file that was not fetched.

    Args:
        path: The file, which is there.
        head: Its first bytes, if they are known.

    Raises:
        ValueError: If it is such a thing; the message says how to fetch the file itself.
    """
    kind = kind_of(first_bytes(path) if head is None else head)
    if kind in HOW_TO_FETCH:
        raise ValueError(f"{path} is {kind}; {HOW_TO_FETCH[kind]}")


def unlike(head: bytes, expected: str, advice: str = "") -> str:
    """What to say, after its name, of a file that begins otherwise than expected.

    Args:
        head: Its first bytes.
        expected: What it should be.
        advice: What to do, where the bytes do not show it.
    """
    kind = kind_of(head)
    found = f"is {kind}" if kind else f"begins with {head[:40]!r}" if head else "is empty"
    advice = HOW_TO_FETCH.get(kind or "", advice)
    return f"{found}, expected {expected}{advice and '; '}{advice}"
