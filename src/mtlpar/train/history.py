"""``metrics.jsonl``: what happened in each step and epoch, for people and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtlpar.core.files import write_text


class History:
    """Appends JSON lines; only rank 0 writes."""

    def __init__(self, path: Path, *, rank: int, resume_step: int) -> None:
        """Open the history, keeping the lines up to the step that training resumes from.

        Args:
            path: The file; it lives beside the checkpoints while training runs.
            rank: This rank.
            resume_step: Steps already done; later lines of an interrupted run are cut off.
        """
        self.path = path
        self._writes = rank == 0
        if self._writes:
            kept = [line for line in self._lines() if json.loads(line)["step"] <= resume_step]
            write_text(path, "".join(f"{line}\n" for line in kept))

    def add(self, **entry: Any) -> None:
        """Append one line."""
        if self._writes:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry, allow_nan=False) + "\n")

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
