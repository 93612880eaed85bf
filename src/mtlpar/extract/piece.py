"""Extracts one piece of a raw file: reader, checks, ``.bp`` parts, and a record of the outcome."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from mtlpar.core.records import read_digested, write_digested
from mtlpar.core.structures import StructureBatch
from mtlpar.extract.checks import check
from mtlpar.extract.findings import Findings
from mtlpar.extract.settings import ExtractSettings
from mtlpar.graph.fingerprint import fingerprints
from mtlpar.sources.base import Piece, RawBlock, Source
from mtlpar.store.bp import BpReader, write_bp

RECORD_SUFFIX: Final = ".piece.json"
_MAX_MESSAGES: Final = 10
_SKIP: Final = "extract.on_error to skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceTask:
    """One piece of a raw file to extract; travels to another process.

    Attributes:
        source: The reader.
        path: The raw file.
        sha256: Its checksum.
        piece: What to read of it; None for all of a file that cannot be divided.
        folder: Where parts and record go.
        name: What their names begin with.
        fingerprint: What the outcome depends on; a record with another one is not used.
        level_of_theory: How the labels were computed.
        settings: What to read and what to drop.
        show_progress: Whether to draw a bar.
    """

    source: Source
    path: Path
    sha256: str
    piece: Piece | None
    folder: Path
    name: str
    fingerprint: str
    level_of_theory: str
    settings: ExtractSettings
    show_progress: bool

    @property
    def record(self) -> Path:
        """File that says that this piece is done."""
        return self.folder / f"{self.name}{RECORD_SUFFIX}"


@dataclass(slots=True)
class PieceResult:
    """What became of a piece.

    Attributes:
        rows: Rows in it, up to the last one that could be read.
        dropped: Rows left out, by reason.
        damage: What could not be read, at most ten messages.
        findings: What the physics checks found in the rows that are kept.
        parts: Name, structures and atoms of each part, in order.
        seconds: Time it took.
    """

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    damage: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    parts: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def extract_piece(task: PieceTask) -> PieceResult:
    """Stream a piece through reader and checks into parts, unless its record says it is done.

    Raises:
        ValueError: If the file is damaged or laid out otherwise, and damage is not to be skipped.
    """
    done = read_record(task.record, task.fingerprint)
    if done is not None:
        return done
    result = PieceResult()
    start = time.perf_counter()
    parts = _fill_parts(_checked(task, result), task.settings.part_structures)
    # What float32 cannot hold becomes infinite or no number, and is counted by the checks.
    with np.errstate(over="ignore", invalid="ignore"):
        for batches in parts:
            result.parts.append(_write_part(task, batches, len(result.parts)))
    result.seconds = time.perf_counter() - start
    content = {item.name: getattr(result, item.name) for item in fields(result)}
    content["findings"] = result.findings.to_record()
    write_digested(task.record, {"fingerprint": task.fingerprint, **content})
    return result


def read_record(path: Path, fingerprint: str) -> PieceResult | None:
    """The outcome that an earlier, interrupted or shared, run recorded for a piece, if any."""
    content = read_digested(path)
    if content is None or content.pop("fingerprint") != fingerprint:
        return None
    result = PieceResult(**content)
    result.dropped = Counter(result.dropped)
    result.findings = Findings.from_record(content["findings"])
    return result


def _write_part(task: PieceTask, batches: list[StructureBatch], index: int) -> dict[str, Any]:
    part: dict[str, Any] = {
        "name": f"{task.name}-{index:05d}.bp",
        "num_structures": sum(len(batch) for batch in batches),
        "num_atoms": sum(batch.total_atoms for batch in batches),
    }
    write_bp(
        task.folder / part["name"],
        batches,
        num_structures=part["num_structures"],
        num_atoms=part["num_atoms"],
        attributes={
            "source": task.source.name,
            "level_of_theory": task.level_of_theory,
            "raw_file": task.path.name,
            "raw_sha256": task.sha256,
        },
    )
    with BpReader(task.folder / part["name"]) as reader:
        return {**part, "data_digest": reader.data_digest}


def _checked(task: PieceTask, result: PieceResult) -> Iterator[StructureBatch]:
    """Usable structures, block by block; rows and drops are counted in ``result``."""
    max_force = task.settings.max_force_ev_per_angstrom
    disable = None if task.show_progress else True
    with tqdm(desc=task.path.name, unit="rows", unit_scale=True, disable=disable) as bar:
        for block in _blocks(task, result):
            batch, dropped, removed_labels = check(block.batch, max_force=max_force)
            batch.fingerprint = fingerprints(batch)
            result.rows += block.rows
            result.dropped.update(block.dropped)
            result.dropped.update(dropped)
            result.findings.labels.merge(block.labels)
            result.findings.removed_labels.update(removed_labels)
            result.findings.add(batch, task.settings.physics)
            bar.update(block.rows)
            yield batch


def _blocks(task: PieceTask, result: PieceResult) -> Iterator[RawBlock]:
    """What the reader yields; damage stops here or, if it is to be skipped, is noted."""
    skip = task.settings.on_error == "skip"

    def note(message: str) -> None:
        if not skip:
            raise ValueError(message)
        if len(result.damage) < _MAX_MESSAGES:
            result.damage.append(message)

    pieces = () if task.piece is None else (task.piece,)
    blocks = iter(task.source.read(task.path, task.settings.labels, *pieces))
    while True:
        try:
            block = next(blocks, None)
        except ValueError as error:
            note(str(error))
            return
        if block is None:
            return
        if block.damage is not None:
            is_told = skip or _SKIP in block.damage
            note(block.damage + ("" if is_told else f"; correct the file, or set {_SKIP} it"))
        yield block


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
