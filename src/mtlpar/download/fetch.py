"""Fetches one file: resumed where it stopped, verified while it streams, whole or absent."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import httpx
from tqdm import tqdm

from mtlpar.core.files import file_digest
from mtlpar.download.part import Contents, PartFile, RawFile

_log = logging.getLogger(__name__)
_CHUNK_BYTES: Final = 1 << 20
_LONGEST_WAIT_S: Final = 60.0
_TRANSIENT_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_T = TypeVar("_T")


class TransientError(Exception):
    """A failure that may go away when the transfer is tried again."""


def is_url(address: str) -> bool:
    """Whether an address is fetched over HTTP; anything else is a path."""
    return address.startswith(("http://", "https://"))


def fetch(
    file: RawFile, folder: Path, *, retries: int, timeout_s: float, backoff_s: float = 1.0
) -> Contents:
    """Bring one file into a folder, unless it is there already.

    Bytes arrive in ``<name>.part``, which a later call continues, and the final name appears once
    length and checksums are right.

    Args:
        file: What to fetch.
        folder: Where to put it.
        retries: Further attempts after one that got no further than those before.
        timeout_s: Seconds without a byte after which an attempt has failed.
        backoff_s: Wait before the first retry; each further one waits twice as long.

    Returns:
        Length and checksums of the file.

    Raises:
        ValueError: If the file cannot be had or is not what was announced.
    """
    target = folder / file.name
    folder.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        present = _already_there(file, target)
        if present is not None:
            _log.info("%s is already there and correct", target)
            return present
    with (
        PartFile(target) as part,
        tqdm(
            desc=file.name, total=file.bytes, unit="B", unit_scale=True, disable=None, leave=False
        ) as bar,
    ):
        if is_url(file.url):
            with _client(timeout_s) as client:
                with_retries(
                    lambda: _transfer(client, file, part, bar),
                    what=file.url,
                    retries=retries,
                    backoff_s=backoff_s,
                    progress=lambda: part.size,
                )
        else:
            _copy(file, part, bar)
        return part.finish(file)


def get_text(url: str, *, retries: int, timeout_s: float, backoff_s: float = 1.0) -> str | None:
    """Fetch a small text such as a listing; None if the server has nothing of that name.

    Raises:
        ValueError: If the server cannot be reached or refuses.
    """

    def attempt() -> str | None:
        with _client(timeout_s) as client:
            response = client.get(url)
        if response.status_code in (404, 410):
            return None
        _check_status(url, response)
        return response.text

    return with_retries(attempt, what=url, retries=retries, backoff_s=backoff_s)


def with_retries(
    attempt: Callable[[], _T],
    *,
    what: str,
    retries: int,
    backoff_s: float,
    progress: Callable[[], int] = lambda: 0,
) -> _T:
    """Call until it succeeds; only attempts that got no further than the best before count.

    Raises:
        ValueError: If ``retries`` further attempts failed as well.
    """
    failures = 0
    best = progress()
    while True:
        try:
            return attempt()
        except (httpx.TransportError, TransientError) as error:
            reached = progress()
            failures = 1 if reached > best else failures + 1
            best = max(best, reached)
            reason = f"{type(error).__name__}: {error}"
            if failures > retries:
                kept = f" {best} bytes were received; the next run goes on there." if best else ""
                raise ValueError(
                    f"{what} could not be fetched: {failures} attempts failed, the last with "
                    f"{reason}.{kept}"
                ) from error
            wait_s = min(backoff_s * 2.0 ** (failures - 1), _LONGEST_WAIT_S)
            _log.warning("%s: %s; trying again in %.1f s", what, reason, wait_s)
            time.sleep(wait_s)


def _already_there(file: RawFile, target: Path) -> Contents | None:
    size = target.stat().st_size
    if file.bytes is not None and size != file.bytes:
        _log.warning("%s has %d bytes, expected %d; replacing it", target, size, file.bytes)
        return None
    contents = Contents(size, file_digest(target, "md5"), file_digest(target))
    differences = contents.differences(file)
    if not is_url(file.url) and file.md5 is None and file.sha256 is None:
        # Nobody announced a checksum, but the original can be asked.
        original = file_digest(Path(file.url))
        if original != contents.sha256:
            differences.append(f"sha256 is {contents.sha256}, expected {original}")
    if differences:
        _log.warning("%s: %s; replacing it", target, "; ".join(differences))
        return None
    return contents


def _client(timeout_s: float) -> httpx.Client:
    # Compression would make Content-Length and ranges speak of other bytes than the file's.
    return httpx.Client(
        timeout=timeout_s, follow_redirects=True, headers={"Accept-Encoding": "identity"}
    )


def _copy(file: RawFile, part: PartFile, bar: tqdm[NoReturn]) -> None:
    part.restart()
    try:
        with Path(file.url).open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                part.append(chunk)
                bar.update(len(chunk))
    except OSError as error:
        raise ValueError(f"{file.url} cannot be copied to {part.path}: {error}") from error


def _transfer(client: httpx.Client, file: RawFile, part: PartFile, bar: tqdm[NoReturn]) -> None:
    if file.bytes is not None and part.size > file.bytes:
        part.restart()
    if part.size and part.size == file.bytes:
        return
    headers = {}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.version is not None:
            headers["If-Range"] = part.version
    with client.stream("GET", file.url, headers=headers) as response:
        total = _start_of_body(file, response, part)
        if file.bytes is not None and total is not None and total != file.bytes:
            raise ValueError(
                f"{file.url} is announced with {total} bytes, expected {file.bytes} for "
                f"{file.name}: the file has been replaced at its origin, or the address leads "
                "elsewhere; compare with the catalogue"
            )
        bar.n = part.size
        for chunk in _raw_chunks(response):
            part.append(chunk)
            bar.update(len(chunk))
    if total is not None and part.size < total:
        raise TransientError(f"the connection ended after {part.size} of {total} bytes")


def _start_of_body(file: RawFile, response: httpx.Response, part: PartFile) -> int | None:
    """Line the part file up with the body that follows; return the length of the whole file."""
    content_range = response.headers.get("Content-Range", "")
    if response.status_code == 416:
        if content_range == f"bytes */{part.size}":
            return part.size
        part.restart()
        raise TransientError("what was received does not fit the file, starting over")
    _check_status(file.url, response)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise ValueError(
            f"{file.url} answered with an HTML page instead of {file.name}: a login, error or "
            "landing page; open the address in a browser to see what it says"
        )
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
        if match is None or int(match[1]) != part.size:
            part.restart()
            raise TransientError(f"got the range {content_range!r}, starting over")
        return None if match[2] == "*" else int(match[2])
    part.restart(_version(response))
    length = response.headers.get("Content-Length")
    return None if length is None else int(length)


def _raw_chunks(response: httpx.Response) -> Iterator[bytes]:
    # Chunks as they come: with a chunk size, the last bytes before an interruption would be lost.
    return iter(()) if response.status_code == 416 else response.iter_raw()


def _version(response: httpx.Response) -> str | None:
    etag: str | None = response.headers.get("ETag")
    modified: str | None = response.headers.get("Last-Modified")
    # A weak tag may be the same for other bytes.
    return modified if etag is None or etag.startswith("W/") else etag


def _check_status(url: str, response: httpx.Response) -> None:
    if response.status_code in _TRANSIENT_STATUS:
        raise TransientError(f"the server answered {response.status_code}")
    if response.status_code not in (200, 206):
        raise ValueError(
            f"{url} answered {response.status_code} {response.reason_phrase}, expected the file; "
            "check the address in the catalogue, or name a folder with the files as "
            "download.mirror"
        )
