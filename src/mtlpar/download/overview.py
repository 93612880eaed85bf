"""What `mtlpar download --list` shows: the files of each source, their size, what is here."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mtlpar.core.files import format_bytes
from mtlpar.core.paths import Workspace
from mtlpar.core.text_table import aligned
from mtlpar.core.wording import counted
from mtlpar.download.catalogue import CatalogueRow, read_catalogue
from mtlpar.download.local import bytes_to_fetch, length, presence
from mtlpar.download.mirror import mirrors_of
from mtlpar.download.part import RawFile
from mtlpar.download.plan import LockUse, planned_files
from mtlpar.download.settings import CATALOGUE, DownloadSettings
from mtlpar.download.web import Web
from mtlpar.sources.registry import get_source

# A table is looked at by somebody who waits.
_PATIENCE_S: Final = 10.0
_COLUMNS: Final = ("file", "size", "bytes", "checksum", "here")


@dataclass(slots=True)
class _Sum:
    """Files, how many are whole and of unknown length, bytes, and bytes still to come."""

    files: int = 0
    whole: int = 0
    unknown: int = 0
    bytes: int = 0
    to_fetch: int = 0

    def add(self, file: RawFile, folder: Path) -> None:
        self.files += 1
        self.whole += presence(file, folder).state == "whole"
        size = length(file, folder)
        self.unknown += size is None
        self.bytes += size or 0
        self.to_fetch += bytes_to_fetch(file, folder)

    def __str__(self) -> str:
        at_least = "at least " if self.unknown else ""
        files = counted(self.files, "file")
        left = (
            "all here"
            if self.whole == self.files > 0 and not self.unknown
            else f"{self.whole} here, {at_least}{format_bytes(self.to_fetch)} to fetch"
        )
        return f"{files}, {at_least}{format_bytes(self.bytes)} ({self.bytes:,} bytes); {left}"


def describe(
    sources: Iterable[str],
    *,
    workspace: Workspace,
    settings: DownloadSettings,
    catalogue: Path,
    lock_use: LockUse = "check",
) -> str:
    """A table of the files of some sources, with sums. Nothing is fetched or written.

    Listings that are not locked yet are read from their servers; a source whose servers do not
    answer is shown with the reason.
    """
    total = _Sum()
    # Sources that share a file have it once.
    summed: set[Path] = set()
    blocks = []
    with Web(retries=0, timeout_s=min(settings.timeout_s, _PATIENCE_S)) as web:
        for source in sources:
            folder = workspace.raw_folder(get_source(source).files_name)
            heading = "\n".join(_heading(source, mirrors_of(source, settings), catalogue))
            try:
                files, _ = planned_files(
                    source,
                    folder,
                    mirrors_of(source, settings),
                    catalogue=catalogue,
                    web=web,
                    lock_use=lock_use,
                )
            except ValueError as error:
                total.unknown += 1
                blocks.append(f"{heading}\n  its files are not known: {error}")
                continue
            subtotal = _Sum()
            for file in files:
                subtotal.add(file, folder)
                if folder / file.name not in summed:
                    summed.add(folder / file.name)
                    total.add(file, folder)
            rows = [_COLUMNS, *(_cells(file, folder) for file in files)]
            table = aligned(rows, "lrrll", indent=4)
            blocks.append("\n".join([heading, *table, f"  {subtotal}"]))
    existing = next(p for p in (workspace.raw, *workspace.raw.absolute().parents) if p.exists())
    free = format_bytes(shutil.disk_usage(existing).free)
    return "\n\n".join([*blocks, f"total: {total}; {free} free in {workspace.raw}"])


def _heading(source: str, mirrors: Sequence[str], catalogue: Path) -> list[str]:
    definition = get_source(source)
    title = definition.title
    lines = [f"{source}  {title}" if title.lower() != source else source]
    if definition.files_of is not None:
        lines.append(f"  in the files of {definition.files_of}, which are downloaded once")
    lines.append(f"  from {', then '.join(mirrors)}")
    if CATALOGUE in mirrors:
        rows = [
            row for row in read_catalogue(catalogue) if row.source == get_source(source).files_name
        ]
        lines += dict.fromkeys(f"  {row.licence}; {row.citation}{_data_doi(row)}" for row in rows)
    return lines


def _data_doi(row: CatalogueRow) -> str:
    return "" if row.doi in row.citation else f"; data doi:{row.doi}"


def _cells(file: RawFile, folder: Path) -> tuple[str, ...]:
    size = length(file, folder)
    texts = ("?", "?") if size is None else (format_bytes(size), f"{size:,}")
    return file.name, *texts, _checksum(file), _here(file, folder)


def _checksum(file: RawFile) -> str:
    if file.pinned_in is not None:
        return "sha256, locked"
    known = [name for name in ("md5", "sha256") if getattr(file, name) is not None]
    return ", ".join(known) or "none yet"


def _here(file: RawFile, folder: Path) -> str:
    found = presence(file, folder)
    if found.state == "whole":
        return "yes"
    if found.state == "partial":
        return f"{100 * found.size / file.bytes:.0f} %" if file.bytes else format_bytes(found.size)
    return "no" if found.state == "absent" else found.state
