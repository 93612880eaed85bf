"""The download stage: the native files of a source, verified, and a manifest that lists them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import quote, urljoin

from mtlpar.core.files import remove, write_json
from mtlpar.core.paths import Workspace
from mtlpar.download.catalogue import CatalogueRow, read_catalogue
from mtlpar.download.fetch import fetch
from mtlpar.download.mirror import kind_of, list_folder, mirror_files, mirror_fingerprint
from mtlpar.download.part import RawFile
from mtlpar.download.settings import DownloadSettings
from mtlpar.sources.base import Source
from mtlpar.sources.registry import get_source

__all__ = ["describe", "mirror_fingerprint", "planned_files", "run"]

_log = logging.getLogger(__name__)


def run(source: str, *, workspace: Workspace, settings: DownloadSettings, catalogue: Path) -> None:
    """Bring a source's native files into the raw folder and write their manifest.

    Files that are there already, with the right length and checksum, are not fetched again.

    Args:
        source: Name of the source.
        workspace: Where raw files go.
        settings: Where they come from.
        catalogue: Table of the real files, used unless the settings name a mirror.

    Raises:
        ValueError: If files are missing, wrong or cannot be fetched.
    """
    files = planned_files(source, settings=settings, catalogue=catalogue)
    manifest = workspace.raw_manifest(source)
    # A manifest of an earlier run must not vouch for files that are being replaced.
    remove(manifest)
    entries = []
    for file in files:
        contents = fetch(
            file,
            workspace.raw_folder(source),
            retries=settings.retries,
            timeout_s=settings.timeout_s,
        )
        _log.info("%s: %s, %d bytes", source, file.name, contents.bytes)
        entries.append(
            {
                "name": file.name,
                "bytes": contents.bytes,
                "sha256": contents.sha256,
                "url": file.url,
                "kind": file.kind,
            }
        )
    write_json(manifest, {"source": source, "files": entries})


def planned_files(
    source: str, *, settings: DownloadSettings, catalogue: Path, ask_servers: bool = True
) -> list[RawFile]:
    """The files that `run` would fetch, sorted by name.

    Args:
        source: Name of the source.
        settings: Where files come from.
        catalogue: Table of the real files.
        ask_servers: Whether to read listings from the catalogue's servers; if not, a listing
            stands in the result as one file named by its pattern.

    Raises:
        ValueError: If there is no data file, or if a file that a reader needs is not among them.
    """
    definition = get_source(source)
    if settings.mirror is not None:
        where = f"download.mirror {settings.mirror} (there or in its folder {source!r})"
        files = mirror_files(
            definition, settings.mirror, retries=settings.retries, timeout_s=settings.timeout_s
        )
    else:
        where = f"the catalogue {catalogue}"
        files = []
        for row in read_catalogue(catalogue):
            if row.source == source:
                files += _files_of_row(definition, row, settings, ask_servers=ask_servers)
    _check_complete(definition, files, where, names_known=ask_servers)
    return sorted(files, key=lambda file: file.name)


def describe(
    sources: Iterable[str], *, workspace: Workspace, settings: DownloadSettings, catalogue: Path
) -> str:
    """A table of the files of some sources: name, size, whether it is here, and where it is from.

    The catalogue's servers are not asked, so this works offline.
    """
    lines = [("source", "file", "bytes", "here", "from")]
    for source in sources:
        files = planned_files(source, settings=settings, catalogue=catalogue, ask_servers=False)
        for file in files:
            here = _is_here(file, workspace.raw_folder(source))
            size = "?" if file.bytes is None else f"{file.bytes:,}"
            lines.append((source, file.name, size, here, file.url))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  {line[1]:<{widths[1]}}  {line[2]:>{widths[2]}}  "
        f"{line[3]:<{widths[3]}}  {line[4]}"
        for line in lines
    )


def _is_here(file: RawFile, folder: Path) -> str:
    if file.kind == "listing":
        count = sum(fnmatchcase(path.name, file.name) for path in folder.glob("*"))
        return f"{count} files" if count else "no"
    path = folder / file.name
    if not path.is_file():
        return "no"
    right_size = file.bytes is None or path.stat().st_size == file.bytes
    return "yes" if right_size else "other size"


def _files_of_row(
    source: Source, row: CatalogueRow, settings: DownloadSettings, *, ask_servers: bool
) -> list[RawFile]:
    if row.kind != "listing" or not ask_servers:
        return [
            RawFile(
                name=row.file,
                url=row.url,
                kind=row.kind,
                bytes=row.bytes,
                md5=row.md5,
                sha256=row.sha256,
            )
        ]
    names = list_folder(row.url, retries=settings.retries, timeout_s=settings.timeout_s)
    files = []
    for name in names:
        kind = kind_of(source, name)
        if kind is not None and fnmatchcase(name, row.file):
            files.append(RawFile(name=name, url=urljoin(row.url, quote(name)), kind=kind))
        elif kind is not None:
            _log.warning("%s: %s is not one of the files to read, left out", row.url, name)
    if not files:
        raise ValueError(
            f"{row.url} lists none of {row.file}, only "
            f"{', '.join(names[:10]) or 'no files at all'}; the release has moved: correct the "
            "address in the catalogue"
        )
    return files


def _check_complete(source: Source, files: list[RawFile], where: str, *, names_known: bool) -> None:
    names = [file.name for file in files]
    if not any(file.kind in ("data", "listing") for file in files):
        raise ValueError(
            f"no data file of {source.name} in {where}: found {', '.join(names) or 'nothing'}, "
            f"expected {' or '.join(source.data_files)}; put the files there under these names or "
            "take the source out of the config"
        )
    for pattern in source.sidecar_files:
        if names_known and not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"{pattern} of {source.name} is missing in {where}; its reader needs that file "
                "beside the data files"
            )
