"""The download stage: the native files of sources, verified, and a manifest that lists them."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mtlpar.core.files import format_bytes, remove
from mtlpar.core.paths import Workspace
from mtlpar.core.products import RawManifest
from mtlpar.core.records import write_content
from mtlpar.core.wording import counted
from mtlpar.download.fetch import fetch
from mtlpar.download.local import bytes_to_fetch, check_space, length
from mtlpar.download.lock import Lock
from mtlpar.download.mirror import mirrors_of, stated_level
from mtlpar.download.part import Contents, RawFile, disk_errors
from mtlpar.download.plan import LockUse, planned_files
from mtlpar.download.progress import ProgressBars
from mtlpar.download.settings import DownloadSettings
from mtlpar.download.web import Web
from mtlpar.sources.registry import get_source

logger = logging.getLogger(__name__)
_MAX_THREADS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What one source needs, and what has come of it."""

    source: str
    folder: Path
    manifest: Path
    files: list[RawFile]
    lock: Lock | None
    level_of_theory: str | None
    contents: dict[str, Contents] = field(default_factory=dict)


def run(
    *sources: str,
    workspace: Workspace,
    settings: DownloadSettings,
    catalogue: Path,
    lock_use: LockUse = "check",
) -> None:
    """Bring the native files of sources into the raw folder and write their manifests.

    Files that are there already, with the right length and checksum, are not fetched again. All
    files of all sources come side by side; one that fails does not stop the others.

    Args:
        *sources: Names of the sources.
        workspace: Where raw files go.
        settings: Where they come from.
        catalogue: Table of the real files; lock files lie beside it.
        lock_use: Whether lock files are compared with listings, trusted unseen, or rewritten.

    Raises:
        ValueError: If files are missing, wrong or cannot be fetched, or if the disk is too small.
    """
    with Web(
        retries=settings.retries,
        timeout_s=settings.timeout_s,
        per_host=settings.connections_per_host,
    ) as web:
        orders = []
        for source in sources:
            folder = workspace.raw_folder(get_source(source).files_name)
            files, lock = planned_files(
                source,
                folder,
                mirrors_of(source, settings),
                catalogue=catalogue,
                web=web,
                lock_use=lock_use,
            )
            orders.append(
                _Order(
                    source=source,
                    folder=folder,
                    manifest=workspace.raw_manifest(source),
                    files=files,
                    lock=lock,
                    level_of_theory=_level_of_mirror(source, settings, lock, web),
                )
            )
        _begin(orders)
        failures = _fetch_all(orders, web)
    if failures:
        total = len({order.folder / file.name for order in orders for file in order.files})
        raise ValueError(
            f"{len(failures)} of {counted(total, 'file')} failed:\n  " + "\n  ".join(failures)
        )


def _level_of_mirror(
    source: str, settings: DownloadSettings, lock: Lock | None, web: Web
) -> str | None:
    """Level of theory by the first mirror that states one; the catalogue's files have their own."""
    if lock is not None:
        return None
    levels = (stated_level(source, mirror, web=web) for mirror in mirrors_of(source, settings))
    return next((level for level in levels if level is not None), None)


def _begin(orders: list[_Order]) -> None:
    # Sources that share a file have it once.
    files = list(
        {
            order.folder / file.name: (file, order.folder)
            for order in orders
            for file in order.files
        }.values()
    )
    check_space(files)
    to_come = sum(bytes_to_fetch(file, folder) for file, folder in files)
    at_least = "at least " if any(length(*one) is None for one in files) else ""
    logger.info("files: %d, to fetch: %s%s", len(files), at_least, format_bytes(to_come))
    for order in orders:
        # A manifest of an earlier run must not vouch for files that are being replaced.
        with disk_errors(order.manifest):
            remove(order.manifest)
        if order.lock is not None:
            order.lock.save()


def _fetch_all(orders: list[_Order], web: Web) -> list[str]:
    """Fetch the files of all orders side by side; return what went wrong."""

    def fetch_one(folder: Path, file: RawFile) -> Contents:
        with progress.file(file.name, file.bytes) as bar:
            return fetch(file, folder, web=web, bar=bar)

    jobs: dict[Path, list[tuple[_Order, RawFile]]] = {}
    for order in orders:
        for file in order.files:
            jobs.setdefault(order.folder / file.name, []).append((order, file))
    failures = []
    with (
        ProgressBars(sum(wanted[0][1].bytes or 0 for wanted in jobs.values())) as progress,
        ThreadPoolExecutor(
            min(len(jobs), _MAX_THREADS), thread_name_prefix="mtlpar-download"
        ) as pool,
    ):
        futures = {
            pool.submit(fetch_one, wanted[0][0].folder, wanted[0][1]): wanted
            for wanted in jobs.values()
        }
        try:
            for count, future in enumerate(as_completed(futures), start=1):
                wanted = futures[future]
                names = ", ".join(f"{order.source}/{file.name}" for order, file in wanted)
                what = f"{count} of {len(jobs)}: {names}"
                try:
                    contents = future.result()
                except ValueError as error:
                    logger.error("%s failed; the others continue", what)
                    failures.append(f"{names}: {error}")
                else:
                    logger.info("%s, %s", what, format_bytes(contents.bytes))
                    for order, file in wanted:
                        _take(order, file, contents)
        except BaseException:
            web.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def _take(order: _Order, file: RawFile, contents: Contents) -> None:
    """Book a file that has come; with the last one the source is complete."""
    if order.lock is not None:
        order.lock.pin(file.name, contents)
    order.contents[file.name] = contents
    if len(order.contents) < len(order.files):
        return
    entries = [
        {
            "name": file.name,
            "bytes": order.contents[file.name].bytes,
            "sha256": order.contents[file.name].sha256,
            "url": file.url,
            "kind": file.kind,
        }
        for file in order.files
    ]
    with disk_errors(order.manifest):
        write_content(
            order.manifest,
            RawManifest,
            {
                "source": order.source,
                "level_of_theory": order.level_of_theory,
                "files": entries,
            },
        )
