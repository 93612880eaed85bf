"""Refuses files that are no longer what the stage wrote that made them.

Most files carry a digest of their own. Those that only the report reads, such as errors and
predictions, do not: for them the records of the stages have one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mtlpar.config import Config
from mtlpar.core.files import file_digest
from mtlpar.flow.run_record import read_run
from mtlpar.flow.stale import makers
from mtlpar.flow.table import STAGES


def check_item(config: Config, item: str, records: Path) -> None:
    """Check what a table or figure is made of.

    What has no record, such as a file that was put there, is not checked.

    Args:
        config: The configuration.
        item: Name of the table or figure.
        records: Folder of the records.

    Raises:
        ValueError: If a file is not what its stage wrote, with what to run.
    """
    known = makers(config)
    for path in STAGES["report"].inputs(config, item):
        if path in known:
            _check(path, *known[path], records)


def check_drawn(config: Config, items: Iterable[str], records: Path) -> None:
    """Check tables and figures that are there, and what they are made of, as `check_item`."""
    for item in items:
        check_item(config, item, records)
        for path in STAGES["report"].output_files(config, item):
            _check(path, "report", item, records)


def _check(path: Path, stage: str, target: str, records: Path) -> None:
    record = records / stage / f"{target}.json"
    written = read_run(record).outputs.get(str(path)) if record.is_file() else None
    if written is not None and path.is_file() and file_digest(path) != written:
        raise ValueError(
            f"{path} is not what {stage} of {target} wrote: it was damaged, edited or exchanged; "
            f"remove it and run {stage} of {target} again"
        )
