"""Cuts a large JSON document into runs of whole members, without parsing it.

A document that holds millions of structures in one object or list is too large to parse as a whole.
Quotes and brackets, found chunk by chunk with NumPy, say where a member of that container
ends; runs of whole members are then parsed on their own. Strings and escapes are followed exactly,
so nothing that a string holds can move a cut.
"""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from mtlpar.core.first_bytes import unlike

CHUNK_BYTES: Final = 1 << 18
MAX_MEMBER_BYTES: Final = 1 << 28
"""A longer member means that a quote or bracket is damaged: its end will never come."""

# What Python writes for numbers that JSON has no words for.
_NO_NUMBER: Final = re.compile(rb"(?<=[:,\[\s])-?(?:NaN|Infinity)(?=\s*[,\]}])")
_ESCAPE: Final = re.compile(rb"\\[\s\S]")
_QUOTE: Final = ord('"')
_ASCII_CASE: Final = 0x20  # lays [ on { and ] on }
_BLANK: Final = b" \t\r\n"

IndexArray = npt.NDArray[np.int64]


class JsonDamageError(Exception):
    """The document is no JSON, or another container than expected; the message says where."""


JSON_ERRORS: Final = (OSError, EOFError, RecursionError, JsonDamageError)
"""What reading a document may raise: files, bzip2, nesting deeper than Python's, and no JSON."""


class RepeatedKeyError(JsonDamageError):
    """A key stands twice in one object, where parsers keep the last value and lose the others."""


class DepthScanner:
    """Follows the bracket depth of a JSON text that comes in chunks.

    Attributes:
        depth: Brackets open at the end of the last chunk.
    """

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        self._in_string = 0
        self._escaped = False

    def closings(self, chunk: bytes) -> tuple[IndexArray, IndexArray]:
        """Positions just after the closing brackets in the next chunk, and the depths there."""
        text = np.frombuffer(self.without_escapes(chunk), np.uint8)
        folded = text | _ASCII_CASE
        opens, closes = folded == ord("{"), folded == ord("}")
        where = np.flatnonzero(opens | closes | (text == _QUOTE))
        quote = text[where] == _QUOTE
        in_string = self._in_string + np.cumsum(quote)
        outside = ~quote & (in_string % 2 == 0)
        step = np.where(outside, opens[where].astype(np.int8) - closes[where].astype(np.int8), 0)
        depth = self.depth + np.cumsum(step)
        if len(where):
            self.depth = int(depth[-1])
            self._in_string = int(in_string[-1] % 2)
        closing = step < 0
        return where[closing] + 1, depth[closing]

    def without_escapes(self, chunk: bytes) -> bytes:
        """The chunk with every escape sequence replaced by as many harmless characters."""
        if not self._escaped and b"\\" not in chunk:
            return chunk
        prefix = b"\\" if self._escaped else b""
        text = _ESCAPE.sub(b"__", prefix + chunk)[len(prefix) :]
        self._escaped = text.endswith(b"\\")
        return text


@dataclass(frozen=True, slots=True)
class MemberRun:
    """Whole members that follow each other.

    Attributes:
        text: The members, separated by commas; there may be one in front.
        offset: Where the text starts in the document.
        ends: Where in the text each member that is an object or a list ends.
    """

    text: bytes
    offset: int
    ends: list[int]

    def document(self, brackets: bytes) -> bytes:
        """The members as the content of ``{}`` or of ``[]``."""
        members = self.text.strip(_BLANK).removeprefix(b",")
        return _with_quoted_nan(b"%c%b%c" % (brackets[0], members, brackets[1]))

    def parse(self, brackets: bytes) -> Any:
        """Parse the members as the content of ``{}`` or of ``[]``.

        Raises:
            JsonDamageError: If they are no JSON.
            RepeatedKeyError: If a key stands twice in one object.
        """
        place = f"bytes {self.offset} to {self.offset + len(self.text)}"
        return _parse(self.document(brackets), place)

    def members(self) -> Iterator[MemberRun]:
        """The members one by one, to find the one that is damaged."""
        start = 0
        for end in self.ends:
            yield MemberRun(self.text[start:end], self.offset + start, [end - start])
            start = end


def _with_quoted_nan(document: bytes) -> bytes:
    """The document with NaN and Infinity as text, which no label is: elsewhere they cost nothing.

    JSON has no such numbers, and its parsers refuse all that stands around one.
    """
    if b"NaN" not in document and b"Infinity" not in document:
        return document
    text = np.frombuffer(DepthScanner().without_escapes(document), np.uint8)
    quotes = np.flatnonzero(text == _QUOTE)

    def quoted(found: re.Match[bytes]) -> bytes:
        in_string = np.searchsorted(quotes, found.start()) % 2
        return found[0] if in_string else b'"%b"' % found[0]

    return _NO_NUMBER.sub(quoted, document)


def _parse(document: bytes, place: str) -> Any:
    # The collector would visit every new list again and again: half of the time of parsing.
    gc.disable()
    try:
        parsed = _loads(document)
    except ValueError as error:
        raise JsonDamageError(f"no JSON in {place}: {error}") from error
    finally:
        gc.enable()
    if _count_keys(parsed) < _count_colons(document):
        raise RepeatedKeyError(f"a key is repeated in {place}")
    return parsed


def _loads(document: bytes) -> Any:
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError as error:
        # Half of a surrogate pair, or a number that no float64 holds: Python takes them, and where
        # they are no label they cost nothing.
        try:
            return json.loads(document, parse_float=_float_or_text)
        except RecursionError:
            raise error from None


def _float_or_text(text: str) -> float | str:
    """A number; one that is too large stays text, which no label is."""
    number = float(text)
    return number if math.isfinite(number) else text


def _count_keys(value: Any) -> int:
    """Keys of all objects in parsed JSON, however deep."""
    keys, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            keys += len(one)
            one = one.values()
        waiting += [inner for inner in one if isinstance(inner, dict | list)]
    return keys


def _count_colons(document: bytes) -> int:
    """Colons outside of strings: as many as there are keys."""
    text = np.frombuffer(DepthScanner().without_escapes(document), np.uint8)
    in_string = np.cumsum(text == _QUOTE) % 2
    return int(np.count_nonzero((text == ord(":")) & (in_string == 0)))


class Members:
    """The members of one large object or list in a JSON document.

    Attributes:
        head: The document up to and with the bracket that opens the container.
        depth: Brackets open there.
    """

    def __init__(self, chunks: Iterable[bytes], head: re.Pattern[bytes], *, expected: str) -> None:
        """Find the container.

        Args:
            chunks: The document.
            head: Matches its beginning up to and with the bracket that opens the container.
            expected: The layout, for messages.

        Raises:
            ValueError: If the document begins otherwise.
        """
        self._chunks = iter(chunks)
        first = next(self._chunks, b"")
        found = head.match(first)
        if found is None:
            raise ValueError(f"the file {unlike(first, expected)}")
        self.head = found[0]
        scanner = DepthScanner()
        scanner.closings(self.head)
        self.depth = scanner.depth
        self._first = first[found.end() :]

    @property
    def chunks(self) -> Iterator[bytes]:
        """The document from the first member on."""
        yield self._first
        yield from self._chunks

    def runs(
        self, chunks: Iterable[bytes], *, offset: int, to_end: bool = True
    ) -> Iterator[MemberRun]:
        """Cut members into runs of about a chunk, or of one member if that is longer.

        Args:
            chunks: `chunks`, or a part of the document that begins and ends between two members.
            offset: Where the first chunk starts in the document, for messages.
            to_end: Whether the chunks go on to the end of the document.

        Raises:
            JsonDamageError: If the document ends too early or too late, or a member never ends.
        """
        depth = self.depth
        scanner = DepthScanner(depth)
        waiting, length = list[bytes](), 0
        chunks = iter(chunks)
        for chunk in chunks:
            positions, depths = scanner.closings(chunk)
            closed = np.flatnonzero(depths < depth)
            if len(closed):
                positions, depths = positions[: closed[0] + 1], depths[: closed[0] + 1]
                chunk, tail = chunk[: positions[-1] - 1], chunk[positions[-1] - 1 :]
            ends = positions[depths == depth]
            waiting.append(chunk)
            if len(ends):
                text, cut = b"".join(waiting), int(ends[-1]) + length
                yield MemberRun(text[:cut], offset, (ends + length).tolist())
                waiting, offset, length = [text[cut:]], offset + cut, len(text) - cut
            else:
                length += len(chunk)
            if len(closed):
                rest = b"".join(waiting)
                if rest.strip(_BLANK) == b",":
                    raise JsonDamageError(f"nothing follows the comma at byte {offset}")
                if rest.strip(_BLANK):
                    yield MemberRun(rest, offset, [])
                self._check_end(tail + next(chunks, b"") + next(chunks, b""))
                return
            if length > MAX_MEMBER_BYTES:
                raise JsonDamageError(f"what begins at byte {offset} does not end")
        if to_end or b"".join(waiting).strip(_BLANK):
            raise JsonDamageError(f"the file ends inside what begins at byte {offset}")

    def cuts(self, chunks: Iterable[bytes], *, every_bytes: int) -> Iterator[int]:
        """Ends of members in the document, each the first after another ``every_bytes``."""
        depth = self.depth
        scanner = DepthScanner(depth)
        offset, target = len(self.head), every_bytes
        for chunk in chunks:
            positions, depths = scanner.closings(chunk)
            if len(depths) and depths.min() < depth:
                return
            ends = positions[depths == depth] + offset
            while len(ends := ends[ends >= target]):
                yield int(ends[0])
                target = max(target, int(ends[0])) + every_bytes
            offset += len(chunk)

    def _check_end(self, tail: bytes) -> None:
        """What follows the members must complete the document, with nothing after it."""
        _parse(_with_quoted_nan(self.head + tail), "what follows the last member")


def read_chunks(stream: IO[bytes], stop: int | None = None) -> Iterator[bytes]:
    """Read a stream in chunks, to its end or to the position ``stop``."""
    while chunk := stream.read(
        CHUNK_BYTES if stop is None else min(CHUNK_BYTES, stop - stream.tell())
    ):
        yield chunk
