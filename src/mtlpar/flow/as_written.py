"""Refuses files that are no longer what the stage wrote that made them.

Most files carry a digest of their own. Those that only the report reads, such as errors and
predictions, do not: for them the records of the stages have one.
"""

from __future__ import annotations

import os
from pathlib import Path

from mtlpar.config import Config
from mtlpar.core.files import file_digest
from mtlpar.flow.run_record import RunRecord, command_of, read_run
from mtlpar.flow.stale import makers
from mtlpar.flow.table import STAGES


class WrittenFiles:
    """What tables and figures are made of, and they themselves, as the stages wrote them.

    What has no record, such as a file that was put there, is not checked. Many items are made of
    the same files: each file is read once.
    """

    def __init__(self, config: Config, records: Path) -> None:
        """Look up who makes what.

        Args:
            config: The configuration.
            records: Folder of the records.
        """
        self._config, self._records = config, records
        self._makers = makers(config)
        self._checked: set[Path] = set()
        self._unchanged: set[Path] = set()

    def check_inputs(self, item: str) -> None:
        """Check what a table or figure is made of.

        Raises:
            ValueError: If a file is not what its stage wrote, or what that read, such as the model
                that was tested, has been replaced since; with what to run.
        """
        for path in STAGES["report"].inputs(self._config, item):
            if path in self._makers:
                self._check(path, *self._makers[path])
                self._check_made_of(*self._makers[path])

    def check_outputs(self, item: str) -> None:
        """Check a table or figure itself, as far as it is there.

        Raises:
            ValueError: If it is not what the report wrote.
        """
        for path in STAGES["report"].output_files(self._config, item):
            self._check(path, "report", item)

    def tested(self, model: str) -> str | None:
        """Digest of the model file that the test errors here are of; None if no record says it.

        Raises:
            ValueError: If they are not what evaluate wrote.
        """
        record = self._record("evaluate", model)
        if record is None:
            return None
        for path in record.outputs:
            self._check(Path(path), "evaluate", model)
        return record.inputs.get(str(self._config.workspace.model(model)))

    def _record(self, stage: str, target: str) -> RunRecord | None:
        path = self._records / stage / f"{target}.json"
        return read_run(path) if os.path.lexists(path) else None

    def _check(self, path: Path, stage: str, target: str) -> None:
        if path in self._checked:
            return
        record = self._record(stage, target)
        written = None if record is None else record.outputs.get(str(path))
        command = command_of(stage, target)
        if written is not None and _is_another(path, written):
            raise ValueError(
                f"{path} is not what `{command}` wrote: it was damaged, edited or exchanged; "
                f"remove it and run `{command}` again"
            )
        self._checked.add(path)

    def _check_made_of(self, stage: str, target: str) -> None:
        record = self._record(stage, target)
        command = command_of(stage, target)
        for name, digest in ({} if record is None else record.inputs).items():
            path = Path(name)
            if path in self._unchanged or digest is None or not os.path.lexists(path):
                continue
            if _is_another(path, digest):
                raise ValueError(
                    f"{path} has been replaced since `{command}` read it; run that again"
                )
            self._unchanged.add(path)


def _is_another(path: Path, digest: str) -> bool:
    """Whether something else is where a file was, be it a folder; not if nothing is there."""
    return os.path.lexists(path) and not (path.is_file() and file_digest(path) == digest)
