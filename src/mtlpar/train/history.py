"""``metrics.jsonl``: what happened in each step and epoch, for people and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from mtlpar.core.files import read_text, write_text
from mtlpar.core.records import LARGEST, Count, Record, parse_record
from mtlpar.train.trackers import TrackerWriter

_ADVICE: Final = "remove that line: nothing but curves depends on it"


class History:
    """Appends JSON lines and passes them on to trackers; only rank 0 writes."""

    def __init__(
        self,
        path: Path,
        *,
        rank: int,
        resume_step: int,
        trackers: Sequence[TrackerWriter] = (),
    ) -> None:
        """Open the history, keeping the lines up to the step that training resumes from.

        Args:
            path: The file; it lives beside the checkpoints while training runs.
            rank: This rank.
            resume_step: Steps already done; later lines of an interrupted run are cut off.
            trackers: Who else wants the lines.
        """
        self.path = path
        self._writes = rank == 0
        self._trackers = trackers
        if self._writes:
            kept = [line for line in read_lines(path) if line["step"] <= resume_step]
            write_text(path, "".join(f"{_as_text(line)}\n" for line in kept))
            self._stream = path.open("a", encoding="utf-8", buffering=1)

    def add(self, **entry: Any) -> None:
        """Append one line."""
        if self._writes:
            self._stream.write(f"{_as_text(entry)}\n")
            for tracker in self._trackers:
                tracker.log(entry)

    def close(self) -> None:
        """Close the file and the trackers."""
        if self._writes:
            self._stream.close()
            for tracker in self._trackers:
                tracker.close()

    def publish(self, path: Path) -> None:
        """Copy the whole history to its final place."""
        if self._writes:
            write_text(path, self.path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a history, which need not exist.

    Raises:
        ValueError: If a line is neither of a step nor of an epoch.
    """
    if not path.exists():
        return []
    # A killed run may leave half a line at the end.
    lines = enumerate(read_text(path).split("\n")[:-1], start=1)
    return [_parse(line, f"{path}, line {number}") for number, line in lines if line]


class _Line(Record):
    """What readers need of any line; there is more in it."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["step", "epoch"]
    step: Count
    epoch: Count


_Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class _StepLine(_Line):
    loss: _Number | None
    skipped: bool
    learning_rate: _Number

    @model_validator(mode="after")
    def _has_a_loss(self) -> _StepLine:
        if self.loss is None and not self.skipped:
            raise ValueError("expected a loss: the step was not skipped")
        return self


class _RankTimes(Record):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, _Number]

    peak_memory_bytes: _Number


class _EpochTimes(Record):
    model_config = ConfigDict(extra="ignore")

    ranks: tuple[_RankTimes, ...]


class _EpochLine(_Line):
    score: _Number
    is_best: bool
    val: dict[str, dict[str, _Number]]
    seconds: _EpochTimes


def _parse(text: str, where: str) -> dict[str, Any]:
    line = parse_record(text, _Line, where=where, advice=_ADVICE)
    kind = _StepLine if line.kind == "step" else _EpochLine
    parse_record(text, kind, where=where, advice=_ADVICE)
    return dict(json.loads(text))


def _as_text(entry: dict[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False)
