"""Files that a command made and keeps for its next run, with a record of what they were made of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtlpar.core.files import file_digest
from mtlpar.core.records import read_digested, write_digested

logger = logging.getLogger(__name__)


def keep(record: Path, files: Mapping[str, Path], facts: Mapping[str, Any]) -> None:
    """Write beside files what they were made of, and a digest of each.

    Args:
        record: Where to.
        files: The files, by what they are.
        facts: Plain values, for `kept` and for readers.
    """
    digests = {name: file_digest(path) for name, path in files.items()}
    write_digested(record, {**facts, "files": digests})


def kept(record: Path, files: Mapping[str, Path]) -> dict[str, Any] | None:
    """What `keep` wrote; None if a file is not there, or is another: make them again."""
    found = read_digested(record)
    if found is None or not all(path.is_file() for path in files.values()):
        return None
    digests = found.get("files")
    changed = [
        str(path)
        for name, path in files.items()
        if not isinstance(digests, dict) or digests.get(name) != file_digest(path)
    ]
    if changed:
        logger.warning("%s: damaged or changed since, and made again", ", ".join(changed))
        return None
    return found
