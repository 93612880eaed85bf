"""Decompresses bzip2 and gzip in a thread of its own, beside the parsing of what it gives."""

from __future__ import annotations

import gzip
import zlib
from bz2 import BZ2Decompressor
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from mtlpar.core.first_bytes import BZIP2, GZIP
from mtlpar.sources.ahead import ahead
from mtlpar.sources.file_kinds import require_kind

# After every call the thread waits for the interpreter, 5 ms if the other one is busy: BZ2File,
# with its calls of 8 kB, would wait most of the time.
_PACKED_BYTES: Final = 1 << 18
_PLAIN_BYTES: Final = 1 << 22
_CHUNK_BYTES: Final = 1 << 18


def read_bz2(path: Path) -> Iterator[bytes]:
    """Stream the content of a file that was compressed with bzip2, in one stream or in several.

    What follows the last stream is ignored, as bzip2 does.

    Raises:
        ValueError: If the file is something else.
        OSError: If it is damaged.
        EOFError: If it ends too early.
    """
    require_kind(path, BZIP2)
    yield from _in_chunks(_bz2_blocks(path))


def read_gz(path: Path) -> Iterator[bytes]:
    """Stream the content of a file that was compressed with gzip.

    Raises:
        ValueError: If the file is something else.
        OSError: If it is damaged.
        EOFError: If it ends too early.
    """
    require_kind(path, GZIP)
    yield from _in_chunks(_gz_blocks(path))


def _in_chunks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """What a thread decompresses ahead, in pieces."""
    for block in ahead(blocks):
        for start in range(0, len(block), _CHUNK_BYTES):
            yield block[start : start + _CHUNK_BYTES]


def _bz2_blocks(path: Path) -> Iterator[bytes]:
    unpacker = BZ2Decompressor()
    with path.open("rb") as stream:
        packed = stream.read(_PACKED_BYTES)
        while True:
            if unpacker.needs_input and not packed:
                raise EOFError("the file ends before its compressed stream does")
            yield unpacker.decompress(packed, _PLAIN_BYTES)
            packed = b""
            if unpacker.eof:
                packed = unpacker.unused_data or stream.read(_PACKED_BYTES)
                if not packed.startswith(b"BZh"):
                    return
                unpacker = BZ2Decompressor()
            elif unpacker.needs_input:
                packed = stream.read(_PACKED_BYTES)


def _gz_blocks(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as stream:
        try:
            while block := stream.read(_PLAIN_BYTES):
                yield block
        except zlib.error as error:
            raise OSError(str(error)) from error
