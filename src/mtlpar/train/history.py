"""``metrics.jsonl``: what happened in each step and epoch, for people and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from mtlpar.core.files import read_text, write_text
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
    """All complete lines of a history, which need not exist; each has a kind and a step.

    Raises:
        ValueError: If a line is damaged.
    """
    if not path.exists():
        return []
    found = []
    # A killed run may leave half a line at the end.
    for number, line in enumerate(read_text(path).split("\n")[:-1], start=1):
        if not line:
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is not valid JSON ({error}); {_ADVICE}"
            ) from error
        if not (isinstance(entry, dict) and type(entry.get("step")) is int and "kind" in entry):
            raise ValueError(f"{path}, line {number} has no kind and step; {_ADVICE}")
        found.append(entry)
    return found


def _as_text(entry: dict[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False)
