"""Finds the files of a source in a mirror: a folder, or a web server with the same layout.

A mirror holds native files under their own names, in a folder per source or all in one. An optional
``checksums.txt`` at its top, in the format of ``sha256sum``, says what they must contain, and an
optional ``levels_of_theory.json`` how their labels were computed, by source.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from mtlpar.core.files import read_text
from mtlpar.download.catalogue import FileKind
from mtlpar.download.part import RawFile
from mtlpar.download.settings import DownloadSettings, is_url
from mtlpar.sources.base import Source
from mtlpar.sources.registry import get_source

if TYPE_CHECKING:
    # Every command and job looks at mirrors; few of them talk to a server.
    from mtlpar.download.web import Web

CHECKSUMS: Final = "checksums.txt"
LEVELS: Final = "levels_of_theory.json"


def mirrors_of(source: str, settings: DownloadSettings) -> tuple[str, ...]:
    """Where the files of a source are: places of its own, or those of all sources."""
    return get_source(source).mirrors or settings.mirrors


def kind_of(source: Source, file_name: str) -> FileKind | None:
    """What a file of that name is to a source, None if it is nothing."""
    if file_name in (CHECKSUMS, LEVELS):
        return None
    if source.is_data_file(file_name):
        return "data"
    return "sidecar" if source.is_sidecar_file(file_name) else None


def mirror_files(source: Source, mirror: str, *, web: Web) -> list[RawFile]:
    """Files of a source that a mirror offers, sorted by name.

    Raises:
        ValueError: If the mirror cannot be reached or read, or its checksums are not readable.
    """
    if not is_url(mirror):
        try:
            return _local_files(source, Path(mirror))
        except OSError as error:
            raise ValueError(f"the mirror {mirror} cannot be read: {error}") from error
    base = mirror.rstrip("/") + "/"
    text = web.text(urljoin(base, CHECKSUMS))
    if text is not None:
        return _files_of_checksums(source, base, _parse_checksums(text, base + CHECKSUMS))
    for below in _folders(source, mirror):
        folder = urljoin(base, below)
        files = [
            RawFile(name=name, url=urljoin(folder, quote(name)), kind=kind, bytes=size)
            for name, size in (list_folder(folder, web=web) or {}).items()
            if (kind := kind_of(source, name)) is not None
        ]
        if files:
            return files
    return []


def stated_level(source: str, mirror: str, *, web: Web) -> str | None:
    """How a mirror says that the labels of a source were computed; None if it does not say.

    Raises:
        ValueError: If its file of levels is no JSON object of texts.
    """
    if is_url(mirror):
        where = urljoin(mirror.rstrip("/") + "/", LEVELS)
        text = web.text(where)
    else:
        where = str(Path(mirror) / LEVELS)
        text = read_text(Path(where)) if Path(where).is_file() else None
    if text is None:
        return None
    try:
        levels = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON ({error})") from error
    level = levels.get(source) if isinstance(levels, dict) else levels
    if level is not None and not isinstance(level, str):
        raise ValueError(f"{where}: expected levels of theory by source, got {level!r:.80}")
    return level


def list_folder(url: str, *, web: Web, retries: int | None = None) -> dict[str, int | None] | None:
    """Files that a web server's index of a folder links to: length by name, sorted by name.

    A length is None where the index does not have it to the byte. A folder that is not there is
    None.

    Raises:
        ValueError: If the server cannot be reached or refuses.
    """
    text = web.text(url, retries=retries)
    if text is None:
        return None
    parser = _Links()
    parser.feed(text)
    folder = urlsplit(url).path
    found = {}
    for link, behind in parser.links:
        path = urlsplit(urljoin(url, link)).path
        parent, _, name = path.rpartition("/")
        if f"{parent}/" == folder and name:
            # As nginx writes it: 16-Dec-2024 10:31    71234567
            size = re.fullmatch(r"\s*\d+-\w+-\d+ \d+:\d+\s+([1-9]\d*)\s*", behind)
            found[unquote(name)] = int(size[1]) if size else None
    return dict(sorted(found.items()))


def mirror_fingerprint(source: str, mirror: str) -> str:
    """A short text that changes when a mirror offers other files; file contents are not read.

    For a folder it depends on names, sizes and announced checksums of this source's files, for a
    URL on the address alone. It never fails: what is wrong with a mirror is said when it is used.
    """
    if is_url(mirror):
        return mirror
    try:
        return _fingerprint_of_folder(get_source(source), Path(mirror))
    except OSError as error:
        return f"cannot be read: {error}"


def _fingerprint_of_folder(source: Source, mirror: Path) -> str:
    found = _local_paths(source, mirror)
    parts = [
        f"{name} {path.stat().st_size if path.is_file() else 'none'}"
        for name, path in found.items()
    ]
    checksums = mirror / CHECKSUMS
    if checksums.is_file():
        wanted = {path.name for path in found.values()}
        lines = checksums.read_bytes().decode(errors="replace").splitlines()
        parts += [line for line in lines if re.split(r"[ */]", line)[-1] in wanted]
    levels = mirror / LEVELS
    if levels.is_file():
        parts.append(levels.read_bytes().decode(errors="replace"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _local_files(source: Source, mirror: Path) -> list[RawFile]:
    if not mirror.is_dir():
        seen_from = "" if mirror.is_absolute() else f" in {Path.cwd()}, where mtlpar was started"
        raise ValueError(
            f"mirrors have {mirror}, which is not a folder{seen_from}; give a folder with "
            "the native files, an http(s) URL, or the word 'catalogue' for the addresses of the "
            "catalogue"
        )
    checksums = {}
    if (mirror / CHECKSUMS).is_file():
        text = read_text(mirror / CHECKSUMS)
        checksums = _parse_checksums(text, str(mirror / CHECKSUMS))
    files = []
    for name, path in _local_paths(source, mirror).items():
        if not path.is_file():
            raise ValueError(f"{path} points to no file: correct the link {path.readlink()}")
        kind = kind_of(source, name)
        assert kind is not None
        files.append(
            RawFile(
                name=name,
                url=str(path),
                kind=kind,
                bytes=path.stat().st_size,
                sha256=checksums.get(path.relative_to(mirror).as_posix(), checksums.get(name)),
            )
        )
    return files


def _local_paths(source: Source, mirror: Path) -> dict[str, Path]:
    """Files of a source by name, and links that should lead to one; folders are nothing."""
    depths = {pattern.count("/") for pattern in (*source.data_files, *source.sidecar_files)}
    for folder in (mirror / below for below in _folders(source, str(mirror))):
        if folder.is_dir():
            found = {
                path.relative_to(folder).as_posix(): path
                for depth in depths
                for path in folder.glob("/".join(["*"] * (depth + 1)))
            }
            names = sorted(
                name
                for name, path in found.items()
                if kind_of(source, name) is not None
                and (path.is_file() or (path.is_symlink() and not path.exists()))
            )
            if names:
                return {name: found[name] for name in names}
    return {}


def _folders(source: Source, mirror: str) -> tuple[str, str]:
    """Where a mirror may have the files of a source, below it; the first that has some counts.

    A mirror of all sources has a folder for each. One that the source names for itself is such a
    folder already; another one in it may have the source's name by chance, and comes second.
    """
    own = mirror in source.mirrors or Path(mirror) in map(Path, source.mirrors)
    folder = f"{source.files_name}/"
    return ("", folder) if own else (folder, "")


def _files_of_checksums(source: Source, base: str, checksums: dict[str, str]) -> list[RawFile]:
    files = []
    for path, sha256 in checksums.items():
        name = path.removeprefix(f"{source.files_name}/")
        kind = kind_of(source, name)
        if kind is not None:
            url = urljoin(base, quote(path))
            files.append(RawFile(name=name, url=url, kind=kind, sha256=sha256))
    return sorted(files, key=lambda file: file.name)


def _parse_checksums(text: str, where: str) -> dict[str, str]:
    """Checksum by path, from the output of ``sha256sum``."""
    checksums = {}
    # A server's text may have the mark of its encoding in front.
    for number, line in _numbered(text.removeprefix("\ufeff")):
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
    """Links of a page, each with the text between its end and the next tag."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self._is_behind = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_behind = False
        self.links += [
            (value, "") for name, value in attrs if tag == "a" and name == "href" and value
        ]

    def handle_endtag(self, tag: str) -> None:
        self._is_behind = tag == "a"

    def handle_data(self, data: str) -> None:
        if self._is_behind and self.links:
            link, behind = self.links[-1]
            self.links[-1] = (link, behind + data)
