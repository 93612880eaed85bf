"""Finds the files of a source in a mirror: a folder, or a web server with the same layout.

A mirror holds native files under their own names, in a folder per source or all in one. An optional
``checksums.txt`` at its top, in the format of ``sha256sum``, says what they must contain.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from mtlpar.download.catalogue import FileKind
from mtlpar.download.fetch import get_text, is_url
from mtlpar.download.part import RawFile
from mtlpar.sources.base import Source
from mtlpar.sources.registry import get_source

CHECKSUMS: Final = "checksums.txt"


def kind_of(source: Source, file_name: str) -> FileKind | None:
    """What a file of that name is to a source, None if it is nothing."""
    if source.is_data_file(file_name):
        return "data"
    return "sidecar" if source.is_sidecar_file(file_name) else None


def mirror_files(
    source: Source, mirror: str, *, retries: int, timeout_s: float, backoff_s: float = 1.0
) -> list[RawFile]:
    """Files of a source that a mirror offers, sorted by name.

    Raises:
        ValueError: If the mirror cannot be reached or its checksums are not readable.
    """
    if not is_url(mirror):
        return _local_files(source, Path(mirror))
    base = mirror.rstrip("/") + "/"
    text = get_text(
        urljoin(base, CHECKSUMS), retries=retries, timeout_s=timeout_s, backoff_s=backoff_s
    )
    if text is not None:
        return _files_of_checksums(source, base, _parse_checksums(text, base + CHECKSUMS))
    for folder in (f"{base}{source.name}/", base):
        names = list_folder(folder, retries=retries, timeout_s=timeout_s, backoff_s=backoff_s)
        files = [
            RawFile(name=name, url=urljoin(folder, quote(name)), kind=kind)
            for name in names
            if (kind := kind_of(source, name)) is not None
        ]
        if files:
            return files
    return []


def list_folder(url: str, *, retries: int, timeout_s: float, backoff_s: float = 1.0) -> list[str]:
    """Names of the files that a web server's index of a folder links to, sorted.

    A folder that is not there has no files.
    """
    text = get_text(url, retries=retries, timeout_s=timeout_s, backoff_s=backoff_s)
    if text is None:
        return []
    parser = _Links()
    parser.feed(text)
    folder = urlsplit(url).path
    names = set()
    for link in parser.links:
        path = urlsplit(urljoin(url, link)).path
        parent, _, name = path.rpartition("/")
        if f"{parent}/" == folder and name:
            names.add(unquote(name))
    return sorted(names)


def mirror_fingerprint(source: str, mirror: str | None) -> str:
    """A short text that changes when a mirror offers other files; file contents are not read.

    For a folder it depends on names, sizes and announced checksums of this source's files, for a
    URL on the address alone. It never fails: what is wrong with a mirror is said when it is used.
    """
    if mirror is None:
        return "catalogue"
    if is_url(mirror):
        return mirror
    found = _local_paths(get_source(source), Path(mirror))
    parts = [f"{path.name} {path.stat().st_size}" for path in found]
    checksums = Path(mirror) / CHECKSUMS
    if checksums.is_file():
        wanted = {path.name for path in found}
        lines = checksums.read_text(encoding="utf-8").splitlines()
        parts += [line for line in lines if re.split(r"[ */]", line)[-1] in wanted]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _local_files(source: Source, mirror: Path) -> list[RawFile]:
    if not mirror.is_dir():
        raise ValueError(
            f"download.mirror is {mirror}, which is not a folder; give a folder with the native "
            "files, an http(s) URL, or leave it out to use the catalogue"
        )
    checksums = {}
    if (mirror / CHECKSUMS).is_file():
        text = (mirror / CHECKSUMS).read_text(encoding="utf-8")
        checksums = _parse_checksums(text, str(mirror / CHECKSUMS))
    files = []
    for path in _local_paths(source, mirror):
        kind = kind_of(source, path.name)
        assert kind is not None
        files.append(
            RawFile(
                name=path.name,
                url=str(path),
                kind=kind,
                bytes=path.stat().st_size,
                sha256=checksums.get(f"{source.name}/{path.name}", checksums.get(path.name)),
            )
        )
    return files


def _local_paths(source: Source, mirror: Path) -> list[Path]:
    for folder in (mirror / source.name, mirror):
        if folder.is_dir():
            found = [path for path in folder.iterdir() if kind_of(source, path.name) is not None]
            if found:
                return sorted(found, key=lambda path: path.name)
    return []


def _files_of_checksums(source: Source, base: str, checksums: dict[str, str]) -> list[RawFile]:
    files = []
    for path, sha256 in checksums.items():
        folder, _, name = path.rpartition("/")
        kind = kind_of(source, name)
        if kind is not None and folder in ("", source.name):
            url = urljoin(base, quote(path))
            files.append(RawFile(name=name, url=url, kind=kind, sha256=sha256))
    return sorted(files, key=lambda file: file.name)


def _parse_checksums(text: str, where: str) -> dict[str, str]:
    """Checksum by path, from the output of ``sha256sum``."""
    checksums = {}
    for number, line in _numbered(text):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", line)
        if match is None:
            raise ValueError(
                f"{where} line {number} is {line!r}, expected '<sha256>  <path>' as sha256sum "
                "writes it"
            )
        checksums[match[2]] = match[1].lower()
    return checksums


def _numbered(text: str) -> Iterable[tuple[int, str]]:
    return ((n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip())


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]
