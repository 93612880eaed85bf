"""``metrics.jsonl``: what happened in each step and epoch, for people and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtlpar.core.files import write_text
from mtlpar.train.trackers import TrackerWriter


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
            kept = [line for line in self._lines() if json.loads(line)["step"] <= resume_step]
            write_text(path, "".join(f"{line}\n" for line in kept))
            self._stream = path.open("a", encoding="utf-8", buffering=1)

    def add(self, **entry: Any) -> None:
        """Append one line."""
        if self._writes:
            self._stream.write(json.dumps(entry, allow_nan=False) + "\n")
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

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        # A killed run may leave half a line at the end.
        text = self.path.read_text(encoding="utf-8")
        return [line for line in text.split("\n")[:-1] if line]
