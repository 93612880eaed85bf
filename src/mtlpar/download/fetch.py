"""Fetches one file: resumed where it stopped, verified while it streams, whole or absent."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx

from mtlpar.core.first_bytes import HEAD_BYTES, HOW_TO_FETCH, WEB_PAGE, kind_of
from mtlpar.download.part import (
    CHUNK_BYTES,
    Contents,
    DiskError,
    PartFile,
    RawFile,
    disk_errors,
    read_contents,
)
from mtlpar.download.progress import Bar
from mtlpar.download.settings import is_url
from mtlpar.download.web import TransientError, Web, check_status

logger = logging.getLogger(__name__)
# Fewer bytes than this within the time-out are a stall too.
_TRICKLE_BYTES: Final = 1 << 14
_ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress"})


def fetch(file: RawFile, folder: Path, *, web: Web, bar: Bar | None = None) -> Contents:
    """Bring one file into a folder, unless it is there already.

    Bytes arrive in ``<name>.part``, which a later call continues, and the final name appears once
    length and checksums are right. A place that fails is followed by the next one.

    Args:
        file: What to fetch.
        folder: Where to put it.
        web: How servers are asked.
        bar: Where progress is shown, if anywhere.

    Returns:
        Length and checksums of the file.

    Raises:
        ValueError: If the file cannot be had or is not what was announced.
    """
    bar = bar or Bar()
    target = folder / file.name
    with disk_errors(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise DiskError(f"{target} is a folder where a file has to go; remove or rename it")
    present, _ = _inspect(file, target, web, bar)
    if present is not None:
        return present
    with PartFile(target, pause=web.pause) as part:
        # Another process may have brought it in the meantime.
        present, differences = _inspect(file, target, web, bar)
        if present is not None:
            return present
        if differences:
            logger.warning("%s: %s; removed, to be fetched again", target, "; ".join(differences))
            with disk_errors(target):
                target.unlink()
        _fetch_from_any(file, part, web, bar)
        return part.finish()


def _fetch_from_any(file: RawFile, part: PartFile, web: Web, bar: Bar) -> None:
    """Complete the part file from the first place that can, the one it is from before others."""
    places = sorted(file.places or (file.url,), key=lambda place: place != part.origin)
    failures = []
    for place, next_place in zip(places, [*places[1:], None], strict=True):
        try:
            with web.slot(place):
                _fetch_from(file, place, part, web, bar)
            return
        except DiskError:
            raise
        except ValueError as error:
            failures.append(str(error))
            if next_place is not None:
                logger.warning("%s; trying %s", error, next_place)
    raise ValueError("\n  ".join(failures))


def _fetch_from(file: RawFile, place: str, part: PartFile, web: Web, bar: Bar) -> None:
    """Complete the part file from one place and compare it with what was announced."""

    def transfer() -> list[str]:
        """Bring what is missing; in words, how the result differs from what was announced."""
        if is_url(place):
            web.patiently(
                lambda: _transfer(web, file, place, part, bar),
                what=place,
                progress=lambda: part.size,
            )
        else:
            _copy(Path(place), part, web, bar)
        return part.differences(file)

    is_resumed = part.size > 0
    differences = transfer()
    if differences and is_resumed:
        # The beginning may be of an earlier run or of another place.
        logger.warning("%s: %s; fetching it from the start", place, "; ".join(differences))
        part.restart()
        differences = transfer()
    if differences:
        is_empty_here = part.size == 0 and not is_url(place)
        part.restart()
        advice = "Put the whole file there and run again." if is_empty_here else _advice(file)
        raise ValueError(
            f"{file.name} from {place} is not the expected file: {'; '.join(differences)}. What "
            f"was received is removed. {advice}"
        )


def _advice(file: RawFile) -> str:
    if file.pinned_in is None:
        return "Run again; if this persists, the file has been replaced at its origin."
    return (
        "Run again; if this persists, the file has been replaced since it was first "
        "downloaded: `mtlpar download --relock` accepts the new one."
    )


def _inspect(file: RawFile, target: Path, web: Web, bar: Bar) -> tuple[Contents | None, list[str]]:
    """What is under the final name if it is right, and in words what is wrong with it if not."""
    if not target.is_file():
        return None, []
    size = target.stat().st_size
    if file.bytes is not None and size != file.bytes:
        return None, [f"length is {size}, expected {file.bytes}"]
    with web.slot(str(target)):
        contents = read_contents(target, bar.move_to)
        differences = contents.differences(file) or _unlike_the_original(file, contents)
    return (None if differences else contents), differences


def _unlike_the_original(file: RawFile, contents: Contents) -> list[str]:
    """What is wrong with bytes whose checksum nobody announced, if the original can be asked."""
    if file.has_checksum or is_url(file.url) or not Path(file.url).is_file():
        return []
    original = read_contents(Path(file.url)).sha256
    if original == contents.sha256:
        return []
    return [f"sha256 is {contents.sha256}, expected {original}"]


def _copy(origin: Path, part: PartFile, web: Web, bar: Bar) -> None:
    part.restart()
    try:
        with origin.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                part.append(chunk)
                bar.move_to(part.size)
                web.pause(0.0)
    except OSError as error:
        raise ValueError(f"{origin} cannot be copied: {error.strerror or error}") from error


def _transfer(web: Web, file: RawFile, url: str, part: PartFile, bar: Bar) -> None:
    if file.bytes is not None and part.size > file.bytes:
        part.restart()
    if part.size and part.size == file.bytes:
        return
    with web.stream(url, _resume_headers(file, url, part)) as response:
        total = _start_of_body(file, url, response, part)
        if file.bytes is not None and total is not None and total != file.bytes:
            raise ValueError(
                f"{url} is announced with {total} bytes, expected {file.bytes} for {file.name}: "
                "the file has been replaced at its origin, or the address leads elsewhere. "
                f"{_advice(file)}"
            )
        if total is not None:
            bar.expect(total)
        for chunk in _chunks(response, web):
            if part.size == 0:
                _refuse_stand_in(file, url, chunk)
            part.append(chunk)
            bar.move_to(part.size)
    if total is not None and part.size < total:
        raise TransientError(f"the connection ended after {part.size} of {total} bytes")


def _resume_headers(file: RawFile, url: str, part: PartFile) -> dict[str, str]:
    if part.size == 0:
        return {}
    version = part.version(url)
    if version is None and not file.has_checksum:
        # Nothing would notice if the two halves were of different files.
        part.restart()
        return {}
    headers = {"Range": f"bytes={part.size}-"}
    if version is not None:
        headers["If-Range"] = version
    return headers


def _start_of_body(file: RawFile, url: str, response: httpx.Response, part: PartFile) -> int | None:
    """Line the part file up with the body that follows; return the length of the whole file."""
    content_range = response.headers.get("Content-Range", "")
    if response.status_code == 416:
        if content_range == f"bytes */{part.size}":
            return part.size
        part.restart()
        raise TransientError("what was received does not fit the file, starting over")
    check_status(url, response)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _not_fetched(file, url, WEB_PAGE)
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding in _ENCODINGS:
        raise ValueError(
            f"{url} sends {file.name} compressed once more ({encoding}) though that was not asked "
            "for, so neither length nor ranges can be trusted; use another mirror"
        )
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
        if match is None or int(match[1]) != part.size:
            part.restart()
            raise TransientError(f"got the range {content_range!r}, starting over")
        return None if match[2] == "*" else int(match[2])
    part.restart(url, _version(response))
    length = response.headers.get("Content-Length")
    if length is not None:
        return int(length)
    ends_visibly = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
    if file.bytes is None and not file.has_checksum and not ends_visibly:
        raise ValueError(
            f"{url} does not say how long {file.name} is, and no length or checksum is known: a "
            "cut-off download would go unnoticed; use another mirror"
        )
    return None


def _chunks(response: httpx.Response, web: Web) -> Iterator[bytes]:
    """The body as it comes; with a chunk size the last bytes before an interruption are lost.

    Raises:
        TransientError: If so little comes that the transfer would never end.
    """
    if response.status_code == 416:
        return
    since, received = time.monotonic(), 0
    for chunk in response.iter_raw():
        web.pause(0.0)
        yield chunk
        received += len(chunk)
        passed_s = time.monotonic() - since
        if passed_s > web.timeout_s:
            if received < _TRICKLE_BYTES:
                raise TransientError(f"only {received} bytes arrived in {passed_s:.0f} s")
            since, received = time.monotonic(), 0


def _refuse_stand_in(file: RawFile, url: str, chunk: bytes) -> None:
    kind = kind_of(chunk[:HEAD_BYTES])
    if kind in HOW_TO_FETCH:
        raise _not_fetched(file, url, kind)


def _not_fetched(file: RawFile, url: str, kind: str) -> ValueError:
    return ValueError(
        f"{url} answered with {kind} instead of {file.name}; {HOW_TO_FETCH[kind]}. Opened in a "
        "browser, the address shows what it gives"
    )


def _version(response: httpx.Response) -> str | None:
    etag: str | None = response.headers.get("ETag")
    modified: str | None = response.headers.get("Last-Modified")
    # A weak tag may be the same for other bytes.
    return modified if etag is None or etag.startswith("W/") else etag
