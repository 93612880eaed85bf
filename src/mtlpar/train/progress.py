"""How far a training has come, as each checkpoint says it, and which checkpoints there are.

``progress.json`` lies in a checkpoint's folder ``step-<n>`` beside its tensors. Formats of earlier
versions are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from mtlpar.core.files import file_digest, read_json, remove
from mtlpar.core.records import (
    Count,
    Digest,
    Record,
    check_expected,
    parse_record,
    read_record,
    write_record,
)
from mtlpar.store.checksums import CHECKSUMS, check_checksums

FORMAT_VERSION: Final = 6
ADVICE: Final = (
    "remove that folder of a checkpoint and rerun: training continues from the one before it"
)
_CHECKSUMS_SINCE: Final = 6
_PROGRESS: Final = "progress.json"
_FINISHED: Final = "finished.json"
_PREFIX: Final = "step-"


@dataclass(kw_only=True)
class TrainingProgress:
    """How far training has come.

    Attributes:
        epoch: Epochs completed.
        step: Steps completed.
        epoch_terms: Sums over the steps of the epoch that is under way, by source: the terms by
            label, and how many steps held such a label.
        epoch_steps: Steps in that sum.
        best_score: Validation score of the epoch to keep: the smallest, but for the advantage of
            low learning rates.
        best_step: Step of the checkpoint that has it.
        epochs_without_improvement: Epochs since then.
        plateaus: How often the schedule has lowered the rate.
        early_start: Epochs after which patience ran out and the cooldown began.
        before_cooldown: Steps of the checkpoints that a longer training needs to continue: the
            last one before the cooldown, and the best until then.
        skipped_steps: Steps left out because something was not finite.
        finished: Whether training ended well.
    """

    epoch: int = 0
    step: int = 0
    epoch_terms: dict[str, list[float]] = field(default_factory=dict)
    epoch_steps: int = 0
    best_score: float | None = None
    best_step: int = 0
    epochs_without_improvement: int = 0
    plateaus: int = 0
    early_start: int | None = None
    before_cooldown: list[int] = field(default_factory=list)
    skipped_steps: int = 0
    finished: bool = False


class _Saved(Record):
    """``progress.json``: the fields of `TrainingProgress`, and of which training they are."""

    format_version: int
    training: str | None
    epoch: Count
    step: Count
    epoch_terms: dict[str, list[float]]
    epoch_steps: Count
    best_score: float | None
    best_step: Count
    epochs_without_improvement: Count
    plateaus: Count
    early_start: Count | None
    before_cooldown: list[Count]
    skipped_steps: Count
    finished: bool = False


class _Finished(Record):
    """``finished.json``: the digest of the checksums of the checkpoint that it was written to."""

    seal: Digest


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 was written at ends of epochs only, and had no number."""
    return {
        **content,
        "format_version": 2,
        "epoch_terms": [],
        "epoch_steps": 0,
        "plateaus": 0,
        "skipped_steps": 0,
    }


def _from_version_2(content: dict[str, Any]) -> dict[str, Any]:
    """Version 2 gave errors by position, in an order that nobody noted.

    The steps that are left of an epoch stand for all of it.
    """
    return {**content, "format_version": 3, "epoch_terms": {}, "epoch_steps": 0}


def _from_version_3(content: dict[str, Any]) -> dict[str, Any]:
    """Version 3 did not count the steps that held a label.

    The steps that are left of an epoch stand for all of it.
    """
    return {**content, "format_version": 4, "epoch_terms": {}, "epoch_steps": 0}


def _from_version_4(content: dict[str, Any]) -> dict[str, Any]:
    """Version 4 knew no cooldown."""
    return {**content, "format_version": 5, "early_start": None, "before_cooldown": []}


def _from_version_5(content: dict[str, Any]) -> dict[str, Any]:
    """Version 5 had no checksum, and did not say of which training it was."""
    return {**content, "format_version": 6, "training": None}


_UPGRADES: Final[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    1: _from_version_1,
    2: _from_version_2,
    3: _from_version_3,
    4: _from_version_4,
    5: _from_version_5,
}


def read_progress(path: Path) -> TrainingProgress:
    """Read ``progress.json`` of this or an older version.

    Raises:
        ValueError: If it is damaged, has no checksum, is that of another step or training, or
            was written by a newer version.
    """
    content = read_json(path)
    written_as = content.get("format_version", 1) if isinstance(content, dict) else None
    if not isinstance(written_as, int) or written_as not in range(1, FORMAT_VERSION + 1):
        raise ValueError(
            f"{path} has checkpoint format {written_as!r}, this version of mtlpar reads up to "
            f"{FORMAT_VERSION}; continue with the version that wrote it, or {ADVICE}"
        )
    for version in range(written_as, FORMAT_VERSION):
        content = _UPGRADES[version](content)
    saved = parse_record(json.dumps(content), _Saved, where=str(path), advice=ADVICE)
    folder = path.parent
    if written_as >= _CHECKSUMS_SINCE:
        check_checksums(folder, only=_PROGRESS, advice=ADVICE)
        expected = {"training": folder.parent.name, "step": _step_of(folder)}
        check_expected(saved, expected, where=str(path), advice=ADVICE)
    progress = TrainingProgress(**saved.model_dump(exclude={"format_version", "training"}))
    progress.finished |= _is_finished(folder)
    return progress


def _step_of(folder: Path) -> int:
    """Step that the name of a checkpoint's folder says; negative if it is no such name."""
    number = folder.name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() else -1


def write_progress(folder: Path, progress: TrainingProgress, *, training: str) -> None:
    """Write ``progress.json`` into the folder of a checkpoint, for the training of that name."""
    facts = {**asdict(progress), "finished": False}
    saved = _Saved(format_version=FORMAT_VERSION, training=training, **facts)
    write_record(folder / _PROGRESS, saved)


def note_finished(folder: Path) -> None:
    """Note beside a checkpoint that training ended well with it, if it has checksums.

    They stay as they are: a kill between two files must not leave what does not fit.
    """
    if (folder / CHECKSUMS).exists():
        write_record(folder / _FINISHED, _Finished(seal=file_digest(folder / CHECKSUMS)))


def forget_seals(folder: Path) -> None:
    """Remove what says of a copied checkpoint that it is another training's."""
    for name in (CHECKSUMS, _FINISHED):
        remove(folder / name)


def remove_steps(folder: Path) -> None:
    """Remove all checkpoints in a folder, complete or not."""
    for path in folder.glob(f"{_PREFIX}*"):
        remove(path)


def _is_finished(folder: Path) -> bool:
    """Whether it is noted beside a checkpoint that training ended well with it.

    Raises:
        ValueError: If the note is damaged, or was written to another checkpoint.
    """
    path = folder / _FINISHED
    if not path.exists():
        return False
    note = read_record(path, _Finished, stage="train")
    expected = {"seal": file_digest(folder / CHECKSUMS)}
    check_expected(note, expected, where=str(path), advice=ADVICE)
    return True


def step_folder(folder: Path, step: int) -> Path:
    """Folder of the checkpoint at a step."""
    return folder / f"{_PREFIX}{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """Steps that have a complete checkpoint in a folder, in order."""
    complete = folder.glob(f"{_PREFIX}*/{_PROGRESS}")
    return sorted(step for path in complete if (step := _step_of(path.parent)) >= 0)


def all_progress(folder: Path) -> list[TrainingProgress]:
    """Progress of every complete checkpoint in a folder, in order."""
    return [progress_at(folder, step) for step in steps_in(folder)]


def progress_at(folder: Path, step: int) -> TrainingProgress:
    """Progress of the checkpoint at a step; see `read_progress`."""
    return read_progress(step_folder(folder, step) / _PROGRESS)


def checked_progress(folder: Path) -> TrainingProgress:
    """Progress of a checkpoint, once all of its files were compared with its checksums.

    Raises:
        ValueError: If one of them is missing, damaged or not of this checkpoint.
    """
    # Earlier versions wrote no checksums, which their progress says.
    if (folder / CHECKSUMS).exists():
        check_checksums(folder, advice=ADVICE)
    return read_progress(folder / _PROGRESS)
