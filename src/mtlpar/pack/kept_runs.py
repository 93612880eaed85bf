"""Sorted runs that several jobs leave on disk for the one that packs the source."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlpar.core.fields import FIELDS
from mtlpar.core.files import file_digest
from mtlpar.core.records import read_digested, write_digested
from mtlpar.pack.shuffle import Constants, Run, RunTask, write_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeptRuns:
    """Runs beside their records; travels to other processes.

    Attributes:
        folder: Where they lie.
        fingerprint: What all of them depend on; a record with another one is not used.
    """

    folder: Path
    fingerprint: str

    def keep(self, task: RunTask) -> None:
        """Sort a run of this folder, unless an earlier job did; its record is written last.

        Raises:
            ValueError: If a part is damaged.
        """
        if self._recorded(task) is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_digested(self._record(task), self._content(write_run(task)))

    def find(self, task: RunTask) -> Run:
        """The run that a job kept, or else a new one, at the path of the task.

        Raises:
            ValueError: If a part is damaged.
        """
        return self._recorded(task) or write_run(task)

    @property
    def total_bytes(self) -> int:
        """Bytes of all that lies there."""
        return sum(path.stat().st_size for path in self.folder.glob("*"))

    def _record(self, task: RunTask) -> Path:
        return self.folder / f"{task.path.name}.json"

    def _content(self, run: Run) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            # Nothing that is gathered from a run has a checksum of its own.
            "sha256": file_digest(run.path),
            "borders": {
                level: [border.tolist() for border in borders]
                for level, borders in run.borders.items()
            },
            # Bits, so that NaN and -0 are what they were.
            "constants": [
                {name: row.tobytes().hex() for name, row in rows.items()} for rows in run.constants
            ],
        }

    def _recorded(self, task: RunTask) -> Run | None:
        content = read_digested(self._record(task))
        if content is None or content["fingerprint"] != self.fingerprint:
            return None
        path = self.folder / task.path.name
        if not path.is_file() or file_digest(path) != content["sha256"]:
            logger.warning("%s is missing or damaged, and is sorted again", path)
            return None
        borders = {
            level: tuple(np.array(border, np.int64) for border in rows)
            for level, rows in content["borders"].items()
        }
        return Run(path, borders, tuple(_constants(rows) for rows in content["constants"]))


def _constants(rows: dict[str, str]) -> Constants:
    return {
        name: np.frombuffer(bytes.fromhex(bits), FIELDS[name].dtype).reshape(FIELDS[name].shape)
        for name, bits in rows.items()
    }
