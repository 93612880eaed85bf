"""The extract stage: native files to ``.bp`` parts, with every row kept or counted as dropped."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mtlpar.core.files import remove, write_json
from mtlpar.core.first_bytes import refuse_stand_in
from mtlpar.core.paths import Workspace
from mtlpar.core.products import ExtractedManifest, RawFileRecord, RawManifest
from mtlpar.core.records import read_record, write_content
from mtlpar.core.share import Share
from mtlpar.core.wording import counted
from mtlpar.extract.findings import Findings
from mtlpar.extract.piece import RECORD_SUFFIX, PieceResult, PieceTask
from mtlpar.extract.pool import extract_files
from mtlpar.extract.settings import ExtractSettings
from mtlpar.sources.base import Source
from mtlpar.sources.registry import get_source

logger = logging.getLogger(__name__)
_SPLIT_WORDS: Final = {
    "train": "train(ing)?",
    "val": "val(id|idation)?",
    "test": "test(ing)?",
}
_FILE_ENDINGS: Final = frozenset({".bz2", ".gz", ".h5", ".hdf5", ".json", ".xz"})


@dataclass(slots=True)
class FileResult:
    """What became of one raw file.

    Attributes:
        name: Name of the raw file.
        sha256: Its checksum.
        rows: Rows in it, up to the last one that could be read.
        dropped: Rows left out, by reason.
        damage: What could not be read.
        findings: What the physics checks found in the rows that are kept.
        parts: Name, structures and atoms of each part, in order.
        seconds: Time that all processes together took.
    """

    name: str
    sha256: str
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    damage: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    parts: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kept(self) -> int:
        """Rows in the parts."""
        return self.rows - sum(self.dropped.values())

    def add(self, piece: PieceResult) -> None:
        """Add what became of the next piece."""
        self.rows += piece.rows
        self.dropped.update(piece.dropped)
        self.damage += piece.damage
        self.findings.merge(piece.findings)
        self.parts += piece.parts
        self.seconds += piece.seconds


def run(
    source: str,
    *,
    workspace: Workspace,
    settings: ExtractSettings,
    jobs: int = 1,
    share: Share | None = None,
    code: str = "",
) -> None:
    """Extract the raw files of a source; the result does not depend on ``jobs`` or shares.

    Pieces that an interrupted run has finished are not extracted again.

    Args:
        source: Name of the source.
        workspace: Where raw files are and parts go.
        settings: Which labels to read and what to drop.
        jobs: Pieces of raw files read at the same time, in processes of their own.
        share: Do only this share of the pieces, and leave the manifest to a run without share.
        code: Digest of the code; pieces that other code has finished are extracted again.

    Raises:
        ValueError: If a raw file is missing, damaged or laid out otherwise, or if no structure of
            the source can be used.
    """
    definition = get_source(source)
    manifest = workspace.extracted_manifest(source)
    remove(manifest)
    raw = read_record(
        workspace.raw_manifest(source), RawManifest, stage="download", expected={"source": source}
    )
    # Custom sources state it themselves; others have that of the archives unless a mirror says.
    level = raw.level_of_theory or definition.theory(settings.labels)
    files = _raw_data_files(source, raw, workspace, settings)
    tasks = _tasks(definition, level, files, workspace, settings, code, show_progress=jobs == 1)
    results: list[FileResult] = []
    for pieces in extract_files(tasks, jobs=jobs, share=share or Share()):
        if share is not None:
            continue
        file = files[len(results)]
        result = FileResult(file.name, file.sha256)
        for piece in pieces:
            result.add(piece)
        _report(source, result)
        results.append(result)
    if share is not None:
        write_json(workspace.extracted_share(source, str(share)), {"source": source})
    else:
        total = Findings.total(result.findings for result in results)
        total.require_choices(source)
        _check_not_empty(source, results)
        _check_energies_were_computed(source, results)
        if not definition.has_given_splits:
            _warn_of_files_that_look_like_splits(source, [result.name for result in results])
        total.report(source, settings.physics)
        content = _manifest_content(definition, level, results)
        _remove_others(workspace.extracted_folder(source), content["parts"])
        write_content(manifest, ExtractedManifest, content)


def _tasks(
    source: Source,
    level_of_theory: str,
    files: list[RawFileRecord],
    workspace: Workspace,
    settings: ExtractSettings,
    code: str,
    *,
    show_progress: bool,
) -> list[PieceTask]:
    """One task per whole file."""
    plain = settings.model_dump(mode="json", exclude={"shares"})
    names = _part_names([file.name for file in files])
    return [
        PieceTask(
            source=source,
            path=workspace.raw_folder(source.files_name) / file.name,
            sha256=file.sha256,
            piece=None,
            folder=workspace.extracted_folder(source.name),
            name=name,
            fingerprint=hashlib.sha256(
                json.dumps([code, file.sha256, plain, level_of_theory]).encode()
            ).hexdigest(),
            level_of_theory=level_of_theory,
            settings=settings,
            show_progress=show_progress,
        )
        for file, name in zip(files, names, strict=True)
    ]


def _remove_others(folder: Path, parts: list[dict[str, Any]]) -> None:
    """Remove parts of an earlier run, remains of interrupted ones, and the records of pieces."""
    names = {part["name"] for part in parts}
    for path in (*folder.glob("*.bp"), *folder.glob(".*.tmp"), *folder.glob(f"*{RECORD_SUFFIX}")):
        if path.name not in names:
            remove(path)


def _raw_data_files(
    source: str, raw: RawManifest, workspace: Workspace, settings: ExtractSettings
) -> list[RawFileRecord]:
    """Data files by the manifest of the download.

    Raises:
        ValueError: If one has another length than the manifest says, and damage is not to be
            skipped. Checksums are looked at when it is the turn of the file.
    """
    manifest = workspace.raw_manifest(source)
    folder = workspace.raw_folder(get_source(source).files_name)
    files = [file for file in raw.files if file.kind == "data"]
    for file in files:
        path = folder / file.name
        size = path.stat().st_size if path.is_file() else None
        if settings.on_error == "raise" and size != file.bytes:
            if size is not None:
                refuse_stand_in(path)
            absent = "is a folder" if path.is_dir() else "is missing"
            got = absent if size is None else f"has {size} bytes"
            raise ValueError(
                f"{path} {got}, expected {file.bytes} bytes by {manifest}; run mtlpar "
                "download again"
            )
    return files


def _part_names(file_names: list[str]) -> list[str]:
    """Names of the parts: file names without endings, unless two of them would be the same."""
    short = []
    for name in file_names:
        stem = Path(name)
        while stem.suffix in _FILE_ENDINGS:
            stem = stem.with_suffix("")
        short.append(stem.as_posix())
    unique = short if len(set(short)) == len(short) else file_names
    # Folders are part of the name, not of the path.
    flat = [name.replace("/", "--") for name in unique]
    return flat if len(set(flat)) == len(flat) else [name.replace("/", "----") for name in unique]


def _report(source: str, result: FileResult) -> None:
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(result.dropped.items()))
    logger.info(
        "%s: %s: %s, %d kept, dropped: %s; %.0f structures/s",
        source,
        result.name,
        counted(result.rows, "row"),
        result.kept,
        dropped or "none",
        result.rows / max(result.seconds, 1e-9),
    )
    for message in result.damage:
        logger.warning("%s: skipped: %s", source, message)
    if result.kept == 0:
        logger.warning("%s: %s holds no usable structure", source, result.name)


def _check_not_empty(source: str, results: list[FileResult]) -> None:
    if any(result.kept for result in results):
        return
    files = "; ".join(
        f"{result.name}: {counted(result.rows, 'row')}, dropped "
        f"{dict(sorted(result.dropped.items()))}"
        + (f", damaged: {result.damage[0]}" if result.damage else "")
        for result in results
    )
    raise ValueError(
        f"{source} has no usable structure ({files}); if these structures should have been kept, "
        f"look at {_where_to_look(source, results)}"
    )


def _check_energies_were_computed(source: str, results: list[FileResult]) -> None:
    """Refuse files in which no energy was computed.

    Raises:
        ValueError: If all energies of a file are one number beside forces that are not zero.
    """
    for result in results:
        found = result.findings
        with_energy = found.structures - found.without["energy"]
        energy = found.uncomputed.the_only_energy(with_energy)
        if energy is not None:
            raise ValueError(
                f"{source}: the energy is exactly {energy:.10g} eV in "
                f"{counted(with_energy, 'structure')}, all of {result.name}, and their forces are "
                "not 0: it was not computed for each (ASE gives 0 to frames of a LAMMPS dump). Set "
                f"custom_sources.{source}.energy_key to null to learn from the forces alone, or "
                "give files with energies"
            )


def _warn_of_files_that_look_like_splits(source: str, names: list[str]) -> None:
    """Say that files called train and test mean nothing by their names."""
    parts = {
        split: [name for name in names if re.search(rf"(?<![a-z]){words}(?![a-z])", name.lower())]
        for split, words in _SPLIT_WORDS.items()
    }
    found = {split: files for split, files in parts.items() if files}
    if len(found) > 1:
        logger.warning(
            "%s: %s look like splits, but file names have no meaning: normalize splits all "
            "structures again. To keep these splits: custom_sources.%s.splits: "
            "{train: [...], val: [...], test: [...]}",
            source,
            ", ".join(name for files in found.values() for name in files),
            source,
        )


_CAUSES: Final = {
    "energy_too_large": "the unit of energies",
    "force_too_large": "extract.max_force_ev_per_angstrom and the unit of forces",
    "singular_cell": "cells and pbc, whose periodic directions the lattice has to span",
}
"""What is wrong, most likely, where structures are dropped for what they hold."""


def _where_to_look(source: str, results: list[FileResult]) -> str:
    """What may be why all rows were dropped, for each of the reasons."""
    keys = Findings.total(result.findings for result in results).labels.keys
    reasons = sorted({reason for result in results for reason in result.dropped})
    options = [_CAUSES[reason] for reason in reasons if reason in _CAUSES]
    if not keys:
        return " and ".join(options or ["extract.labels"])
    options += [
        f"custom_sources.{source}.{reason.removeprefix('missing_')}_key"
        for reason in reasons
        if reason.startswith("missing_")
    ]
    if "no_label" in reasons:
        options += [f"custom_sources.{source}.{label}_key" for label in ("energy", "forces")]
    if "not_selected" in reasons:
        options.append(f"custom_sources.{source}.where")
    where = " and ".join(options or ["docs/data_quality.md, which has the reasons"])
    return f"{where}; the files have the keys {', '.join(sorted(keys))}"


def _manifest_content(
    source: Source, level_of_theory: str, results: list[FileResult]
) -> dict[str, Any]:
    dropped = sum((result.dropped for result in results), Counter[str]())
    return {
        "source": source.name,
        "level_of_theory": level_of_theory,
        "given_splits": source.has_given_splits,
        "rows": sum(result.rows for result in results),
        "dropped": dict(sorted(dropped.items())),
        "checks": Findings.total(result.findings for result in results).as_dict(),
        "files": [
            {
                "name": result.name,
                "sha256": result.sha256,
                "rows": result.rows,
                "dropped": dict(sorted(result.dropped.items())),
                "damage": result.damage,
                "checks": result.findings.as_dict(),
            }
            for result in results
        ],
        "parts": [part for result in results for part in result.parts],
    }
