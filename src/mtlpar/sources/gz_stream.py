"""Decompresses gzip in a thread of its own, beside the parsing of what it gives."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mtlpar.sources.ahead import ahead
from mtlpar.sources.file_kinds import GZIP, require_kind

_PLAIN_BYTES: Final = 1 << 22
_CHUNK_BYTES: Final = 1 << 18


def read_gz(path: Path) -> Iterator[bytes]:
    """Stream the content of a file that was compressed with gzip.

    Raises:
        ValueError: If the file is something else.
        OSError: If it is damaged.
        EOFError: If it ends too early.
    """
    require_kind(path, GZIP)
    for block in ahead(_blocks(path)):
        for start in range(0, len(block), _CHUNK_BYTES):
            yield block[start : start + _CHUNK_BYTES]


def _blocks(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as stream:
        try:
            while block := stream.read(_PLAIN_BYTES):
                yield block
        except zlib.error as error:
            raise OSError(str(error)) from error
