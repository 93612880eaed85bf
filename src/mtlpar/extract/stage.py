"""The extract stage: native files to ``.bp`` parts, with every row kept or counted as dropped."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from mtlpar.core.files import read_json, remove, write_json
from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.extract.checks import check
from mtlpar.extract.settings import ExtractSettings
from mtlpar.sources.registry import get_source
from mtlpar.store.bp import write_bp

_log = logging.getLogger(__name__)
_FILE_ENDINGS: Final = frozenset({".bz2", ".gz", ".h5", ".hdf5", ".json", ".xz"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTask:
    """One raw file to extract; travels to another process."""

    source: str
    path: Path
    sha256: str
    folder: Path
    part_name: str
    settings: ExtractSettings
    show_progress: bool


@dataclass(slots=True)
class FileResult:
    """What became of one raw file.

    Attributes:
        name: Name of the raw file.
        rows: Rows in it.
        dropped: Rows left out, by reason.
        parts: Name, structures and atoms of each part, in order.
        seconds: Time it took.
    """

    name: str
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    parts: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kept(self) -> int:
        """Rows in the parts."""
        return self.rows - sum(self.dropped.values())


def run(source: str, *, workspace: Workspace, settings: ExtractSettings, jobs: int = 1) -> None:
    """Extract all raw files of a source; the result does not depend on ``jobs``.

    Args:
        source: Name of the source.
        workspace: Where raw files are and parts go.
        settings: Which labels to read and what to drop.
        jobs: Raw files read at the same time, in processes of their own.

    Raises:
        ValueError: If a raw file is missing, damaged or laid out otherwise, or if no structure of
            the source can be used.
    """
    raw_files = _raw_data_files(source, workspace)
    folder = workspace.extracted_folder(source)
    manifest = workspace.extracted_manifest(source)
    remove(manifest)
    for stale in (*folder.glob("*.bp"), *folder.glob(".*.tmp")):
        remove(stale)
    part_names = _part_names([file["name"] for file in raw_files])
    tasks = [
        FileTask(
            source=source,
            path=workspace.raw_folder(source) / file["name"],
            sha256=file["sha256"],
            folder=folder,
            part_name=part_name,
            settings=settings,
            show_progress=jobs == 1 or len(raw_files) == 1,
        )
        for file, part_name in zip(raw_files, part_names, strict=True)
    ]
    results = []
    for result in _map(tasks, jobs):
        _report(source, result)
        results.append(result)
    _check_not_empty(source, results)
    checksums = {file["name"]: file["sha256"] for file in raw_files}
    theory = get_source(source).theory(settings.labels)
    write_json(manifest, _manifest_content(source, theory, results, checksums))


def extract_file(task: FileTask) -> FileResult:
    """Stream one raw file through reader and checks into parts.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    result = FileResult(task.path.name)
    start = time.perf_counter()
    parts = _fill_parts(_checked(task, result), task.settings.part_structures)
    # A number that float32 cannot hold becomes infinite and is counted by the checks.
    with np.errstate(over="ignore"):
        for batches in parts:
            result.parts.append(_write_part(task, batches, len(result.parts)))
    result.seconds = time.perf_counter() - start
    return result


def _write_part(task: FileTask, batches: list[StructureBatch], index: int) -> dict[str, Any]:
    part: dict[str, Any] = {
        "name": f"{task.part_name}-{index:05d}.bp",
        "num_structures": sum(len(batch) for batch in batches),
        "num_atoms": sum(batch.total_atoms for batch in batches),
    }
    write_bp(
        task.folder / part["name"],
        batches,
        num_structures=part["num_structures"],
        num_atoms=part["num_atoms"],
        attributes={
            "source": task.source,
            "level_of_theory": get_source(task.source).theory(task.settings.labels),
            "raw_file": task.path.name,
            "raw_sha256": task.sha256,
        },
    )
    return part


def _checked(task: FileTask, result: FileResult) -> Iterator[StructureBatch]:
    """Usable structures, block by block; rows and drops are counted in ``result``."""
    max_force = task.settings.max_force_ev_per_angstrom
    blocks = get_source(task.source).read(task.path, task.settings.labels)
    disable = None if task.show_progress else True
    with tqdm(desc=task.path.name, unit="rows", unit_scale=True, disable=disable) as bar:
        for block in blocks:
            batch, dropped = check(block.batch, max_force=max_force)
            result.rows += block.rows
            result.dropped.update(block.dropped)
            result.dropped.update(dropped)
            bar.update(block.rows)
            yield batch


def _fill_parts(
    batches: Iterable[StructureBatch], part_structures: int
) -> Iterator[list[StructureBatch]]:
    """Gather batches into lists of ``part_structures`` structures; the last has the rest."""
    waiting: list[StructureBatch] = []
    count = 0
    for batch in batches:
        start = 0
        while start < len(batch):
            stop = min(len(batch), start + part_structures - count)
            waiting.append(batch.slice(start, stop))
            count += stop - start
            start = stop
            if count == part_structures:
                yield waiting
                waiting, count = [], 0
    if waiting:
        yield waiting


def _map(tasks: list[FileTask], jobs: int) -> Iterator[FileResult]:
    if jobs == 1 or len(tasks) == 1:
        yield from map(extract_file, tasks)
        return
    # Forked children would inherit locks of libraries that have threads.
    context = get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context) as pool:
        try:
            yield from tqdm(
                pool.map(extract_file, tasks),
                total=len(tasks),
                desc=tasks[0].source,
                unit="files",
                disable=None,
            )
        except ValueError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        except BrokenProcessPool as error:
            raise ValueError(
                f"a process that read files of {tasks[0].source} was killed, most likely for want "
                "of memory; use fewer jobs or lower extract.part_structures"
            ) from error


def _raw_data_files(source: str, workspace: Workspace) -> list[dict[str, Any]]:
    manifest = workspace.raw_manifest(source)
    files = [file for file in read_json(manifest)["files"] if file["kind"] == "data"]
    for file in files:
        path = workspace.raw_folder(source) / file["name"]
        size = path.stat().st_size if path.is_file() else None
        if size != file["bytes"]:
            got = "is missing" if size is None else f"has {size} bytes"
            raise ValueError(
                f"{path} {got}, expected {file['bytes']} bytes by {manifest}; run the download "
                "stage again"
            )
    return files


def _part_names(file_names: list[str]) -> list[str]:
    """Names of the parts: file names without endings, unless two of them would be the same."""
    short = []
    for name in file_names:
        stem = Path(name)
        while stem.suffix in _FILE_ENDINGS:
            stem = stem.with_suffix("")
        short.append(stem.name)
    return short if len(set(short)) == len(short) else file_names


def _report(source: str, result: FileResult) -> None:
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(result.dropped.items()))
    _log.info(
        "%s: %s: %d rows, %d kept, dropped: %s; %.0f structures/s",
        source,
        result.name,
        result.rows,
        result.kept,
        dropped or "none",
        result.rows / max(result.seconds, 1e-9),
    )
    if result.kept == 0:
        _log.warning("%s: %s holds no usable structure", source, result.name)


def _check_not_empty(source: str, results: list[FileResult]) -> None:
    if any(result.kept for result in results):
        return
    files = "; ".join(
        f"{result.name}: {result.rows} rows, dropped {dict(sorted(result.dropped.items()))}"
        for result in results
    )
    raise ValueError(
        f"{source} has no usable structure ({files}); if the reasons are not what the files "
        "deserve, look at extract.labels and extract.max_force_ev_per_angstrom"
    )


def _manifest_content(
    source: str, theory: str, results: list[FileResult], checksums: dict[str, str]
) -> dict[str, Any]:
    dropped = sum((result.dropped for result in results), Counter[str]())
    return {
        "source": source,
        "level_of_theory": theory,
        "rows": sum(result.rows for result in results),
        "dropped": dict(sorted(dropped.items())),
        "files": [
            {
                "name": result.name,
                "sha256": checksums[result.name],
                "rows": result.rows,
                "dropped": dict(sorted(result.dropped.items())),
            }
            for result in results
        ],
        "parts": [part for result in results for part in result.parts],
    }
