"""Plans a download: which files a source has, where each can be had and how it is recognised."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote, urljoin

from mtlpar.core.paths import RAW_MANIFEST
from mtlpar.download.catalogue import CatalogueRow, read_catalogue
from mtlpar.download.lock import Lock, LockedFile
from mtlpar.download.mirror import kind_of, list_folder, mirror_files
from mtlpar.download.part import PART_ENDINGS, RawFile
from mtlpar.download.settings import CATALOGUE
from mtlpar.download.web import Web
from mtlpar.sources.base import Source, matches
from mtlpar.sources.registry import get_source

logger = logging.getLogger(__name__)

# File systems take 255; parts, their records and temporaries add at most 31.
_MAX_NAME_BYTES: Final = 220

LockUse = Literal["check", "keep", "renew"]
"""What to do with a lock: compare it with listings, trust it unseen, or rewrite it."""


def planned_files(
    source: str,
    raw_folder: Path,
    mirrors: Sequence[str],
    *,
    catalogue: Path,
    web: Web,
    lock_use: LockUse = "check",
) -> tuple[list[RawFile], Lock | None]:
    """The files of a source, sorted by name, and the lock that they are held to.

    Args:
        source: Name of the source.
        raw_folder: Where files go; listings are not read while all of them are there.
        mirrors: Places to take files from, in this order; ``"catalogue"`` is one of them.
        catalogue: Table of the real files.
        web: How servers are asked.
        lock_use: What to do with the lock.

    Returns:
        The files, and None for the lock where the catalogue is not among the mirrors.

    Raises:
        ValueError: If no place has the source, or a listing is not what the lock says.
    """
    definition = get_source(source)
    if CATALOGUE not in mirrors:
        return _files_of_mirrors(definition, mirrors, web), None
    lock = Lock(catalogue, definition.files_name)
    if lock_use == "renew":
        lock.clear()
    rows = [row for row in read_catalogue(catalogue) if row.source == definition.files_name]
    _refuse_orphans(rows, lock)
    files = []
    for row in rows:
        if row.kind in ("document", "by_hand"):
            continue
        if row.kind == "listing":
            files += _files_of_listing(definition, row, lock, raw_folder, web, lock_use)
        else:
            files.append(_file_of_row(row, lock))
    if not files:
        _refuse_what_is_by_hand(definition, rows)
    _check_complete(definition, files, f"the catalogue {catalogue}")
    lock.cover(files)
    offers = [
        files if mirror == CATALOGUE else _offer_or_warning(definition, mirror, web)
        for mirror in mirrors
    ]
    return _with_places(files, offers), lock


def _refuse_what_is_by_hand(source: Source, rows: list[CatalogueRow]) -> None:
    """Say what to do for a source whose files have to be unpacked or converted first.

    Raises:
        ValueError: If it is one.
    """
    addresses = [row.urls[0] for row in rows if row.kind == "by_hand"]
    if addresses:
        raise ValueError(
            f"{source.name} comes in files that are unpacked or converted by hand: fetch "
            f"{', '.join(addresses)}; docs/data_sets.md says what to do with them. Then name the "
            f"folder with {' and '.join(source.data_files)} in custom_sources.{source.name}.mirrors"
        )


def _files_of_mirrors(source: Source, mirrors: Sequence[str], web: Web) -> list[RawFile]:
    """Files of the first mirror that has the source; the others are further places for them."""
    problems = []
    for index, mirror in enumerate(mirrors):
        following = mirrors[index + 1 : index + 2]
        is_there = True
        try:
            files = mirror_files(source, mirror, web=web)
            is_there = bool(files)
            _check_complete(
                source, files, f"the mirror {mirror} (there or in its folder {source.files_name!r})"
            )
        except ValueError as error:
            problems.append(str(error))
            # Each of several mirrors may hold some of the sources.
            if following and is_there:
                logger.warning("%s; trying %s", error, *following)
            elif following:
                _tell_of_nothing(source, mirror)
            continue
        others = [_offer_or_warning(source, other, web) for other in mirrors[index + 1 :]]
        return _with_places(files, [files, *others])
    raise ValueError("\n  ".join(problems))


def _offer_or_warning(source: Source, mirror: str, web: Web) -> list[RawFile]:
    try:
        files = mirror_files(source, mirror, web=web)
    except ValueError as error:
        logger.warning("%s; continuing without this mirror", error)
        return []
    if not files:
        _tell_of_nothing(source, mirror)
    return files


def _tell_of_nothing(source: Source, mirror: str) -> None:
    logger.info("the mirror %s has no files of %s", mirror, source.name)


def _with_places(files: list[RawFile], offers: list[list[RawFile]]) -> list[RawFile]:
    """The files, sorted by name, each with all places that offer it in the order of the offers."""
    result = []
    for file in files:
        places: list[str] = []
        for offered in (other for offer in offers for other in offer if other.name == file.name):
            if _contradicts(offered, file):
                logger.warning(
                    "%s has another length or checksum than the expected %s; left out",
                    offered.url,
                    file.name,
                )
                continue
            if not places and not file.has_checksum:
                # The first place says what the file contains; the others are copies of it.
                file = replace(file, sha256=offered.sha256)
            places += offered.places or (offered.url,)
        result.append(replace(file, places=tuple(places)))
    return sorted(result, key=lambda file: file.name)


def _contradicts(offered: RawFile, file: RawFile) -> bool:
    return any(
        one is not None and other is not None and one != other
        for one, other in ((offered.bytes, file.bytes), (offered.sha256, file.sha256))
    )


def _file_of_row(row: CatalogueRow, lock: Lock) -> RawFile:
    file = RawFile(
        name=row.file,
        url=row.urls[0],
        kind=row.kind,
        bytes=row.bytes,
        md5=row.md5,
        sha256=row.sha256,
        places=row.urls,
    )
    return _as_locked(file, lock)


def _as_locked(file: RawFile, lock: Lock) -> RawFile:
    """A file with what its first download has taught, if no checksum is published."""
    locked = lock.files.get(file.name)
    if locked is None or locked.sha256 is None or file.has_checksum:
        return file
    return replace(
        file,
        bytes=file.bytes or locked.bytes,
        sha256=locked.sha256,
        pinned_in=str(lock.path),
    )


def _files_of_listing(
    source: Source, row: CatalogueRow, lock: Lock, raw_folder: Path, web: Web, lock_use: LockUse
) -> list[RawFile]:
    sizes = {file.name: file.bytes for file in lock.files.values() if _is_of(row, file)}
    if not sizes and lock_use == "keep":
        raise ValueError(
            f"{lock.path} has no files of {row.url}, so there is nothing to compare with; run "
            "`mtlpar download` without --locked to list that folder"
        )
    if not sizes:
        sizes = _listed_files(source, row, web)
    elif lock_use == "check" and not _are_here(sizes, raw_folder):
        _check_listing(source, row, sizes, lock, web)
    files = []
    for name, size in sizes.items():
        kind = kind_of(source, name)
        assert kind is not None
        url = urljoin(row.url, quote(name))
        files.append(_as_locked(RawFile(name=name, url=url, kind=kind, bytes=size), lock))
    return files


def _is_of(row: CatalogueRow, file: LockedFile) -> bool:
    if row.kind != "listing":
        return file.name == row.file
    is_there = file.url == urljoin(row.url, quote(file.name))
    return is_there and matches(file.name, row.file)


def _are_here(sizes: dict[str, int | None], folder: Path) -> bool:
    paths = ((folder / name, size) for name, size in sizes.items())
    return all(path.is_file() and size in (None, path.stat().st_size) for path, size in paths)


def _listed_files(source: Source, row: CatalogueRow, web: Web) -> dict[str, int | None]:
    """Length by name of the files that a folder lists and the row asks for."""
    listed = list_folder(row.url, web=web)
    wanted = _wanted(source, row, listed or {})
    if not wanted:
        raise ValueError(
            f"{row.url} lists none of {row.file}, only "
            f"{', '.join(list(listed or {})[:10]) or 'no files at all'}; the release has moved: "
            "correct the address in the catalogue"
        )
    return wanted


def _wanted(
    source: Source, row: CatalogueRow, listed: dict[str, int | None]
) -> dict[str, int | None]:
    wanted = {}
    for name, size in listed.items():
        if kind_of(source, name) is None:
            continue
        if matches(name, row.file):
            wanted[name] = size
        else:
            logger.info("%s: %s is not %s, left out", row.url, name, row.file)
    return wanted


def _check_listing(
    source: Source, row: CatalogueRow, locked: dict[str, int | None], lock: Lock, web: Web
) -> None:
    """Compare what a folder lists now with what it listed when it was locked.

    Raises:
        ValueError: If files are new, gone or of another length.
    """
    try:
        listed = list_folder(row.url, web=web, retries=0)
    except ValueError as error:
        logger.warning("%s; continuing with the files in %s", error, lock.path)
        return
    if listed is None:
        logger.warning("%s is gone; continuing with the files in %s", row.url, lock.path)
        return
    wanted = _wanted(source, row, listed)
    changes = [f"{name} is new" for name in sorted(wanted.keys() - locked.keys())]
    changes += [f"{name} is gone" for name in sorted(locked.keys() - wanted.keys())]
    changes += [
        f"{name} has {wanted[name]} bytes, not {size}"
        for name, size in locked.items()
        if wanted.get(name) is not None and size not in (None, wanted[name])
    ]
    if changes:
        more = f" and {len(changes) - 10} changes more" if len(changes) > 10 else ""
        raise ValueError(
            f"{row.url} is not what {lock.path} says: {', '.join(changes[:10])}{more}. To accept "
            "what is there now: `mtlpar download --relock`. To go on with the locked files: "
            "`mtlpar download --locked`."
        )


def _refuse_orphans(rows: list[CatalogueRow], lock: Lock) -> None:
    orphans = [
        file.url for file in lock.files.values() if not any(_is_of(row, file) for row in rows)
    ]
    if orphans:
        raise ValueError(
            f"{lock.path} has files that the catalogue no longer names: {', '.join(orphans[:10])}. "
            "If the catalogue is right: `mtlpar download --relock`"
        )


def _check_complete(source: Source, files: list[RawFile], where: str) -> None:
    names = [file.name for file in files]
    if not any(file.kind == "data" for file in files):
        raise ValueError(
            f"no data file of {source.name} in {where}: found {', '.join(names) or 'nothing'}, "
            f"expected {' or '.join(source.data_files)}; put the files there under these names, "
            "add their folder to download.mirrors, or take the source out of the config"
        )
    for pattern in source.data_files if source.needs_all_files else ():
        if not any(matches(name, pattern) for name in names):
            raise ValueError(
                f"no file is {pattern!r} in {where}, found {', '.join(names)}; put one there or "
                f"take it out of custom_sources.{source.name}.files"
            )
    for pattern in source.sidecar_files:
        if not any(matches(name, pattern) for name in names):
            raise ValueError(
                f"{pattern} of {source.name} is missing in {where}; its reader needs that file "
                "beside the data files"
            )
    _check_names(source, names, where)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated)} of {source.name} appears twice in {where}")


def _check_names(source: Source, names: list[str], where: str) -> None:
    """Refuse names that files of our own have or would not get.

    Raises:
        ValueError: If there is one; all are named.
    """
    taken = [name for name in names if name == RAW_MANIFEST or name.endswith(PART_ENDINGS)]
    if taken:
        raise ValueError(
            f"{', '.join(taken)} of {source.name} in {where}: mtlpar writes files of such names "
            "beside raw ones; rename them there, or narrow the patterns that match them"
        )
    long = [name for name in names if len(name.encode(errors="surrogateescape")) > _MAX_NAME_BYTES]
    if long:
        raise ValueError(
            f"{', '.join(long)} of {source.name} in {where}: expected names of at most "
            f"{_MAX_NAME_BYTES} bytes, because files that are made of them get longer names; "
            "rename them"
        )
