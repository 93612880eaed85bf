"""Checksums of a folder: which files it holds, how long they are, and their SHA-256.

ADIOS2 hangs on a truncated file and crashes on damaged metadata, so a folder is checked before
ADIOS2 sees it. Metadata files are small and checked whole. The data files can be huge: only their
length is checked here, their content by the checksums of `mtlpar.store.bp` when it is read.
Checkpoints have them too, and are checked whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from mtlpar.core.files import file_digest, read_json, write_json
from mtlpar.core.first_bytes import refuse_stand_in

CHECKSUMS: Final = "seal.json"
"""The name is part of the format of packs and checkpoints."""
_ADVICE: Final = "write or copy the folder again"


def write_checksums(folder: Path) -> None:
    """Write the checksums of a finished folder into it."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        files[path.name] = {"bytes": path.stat().st_size}
        if not _is_data(path.name):
            files[path.name]["sha256"] = file_digest(path)
    write_json(folder / CHECKSUMS, files)


def check_checksums(folder: Path, *, only: str | None = None, advice: str = _ADVICE) -> None:
    """Make sure that a folder holds the files as they were written.

    Args:
        folder: The folder.
        only: Look at this one of its files.
        advice: What to do if it does not.

    Raises:
        ValueError: If it has no checksums, or if a file is missing, truncated or damaged.
    """
    if not (folder / CHECKSUMS).is_file():
        raise ValueError(
            f"{folder} was not written by mtlpar, or not completely: no {CHECKSUMS} in it; {advice}"
        )
    try:
        files = read_json(folder / CHECKSUMS)
        if not files:
            raise ValueError(f"{folder / CHECKSUMS} names no files; {advice}")
        for name, expected in files.items() if only is None else [(only, files[only])]:
            problem = _compare(
                folder / name, expected["bytes"], None if _is_data(name) else expected["sha256"]
            )
            if problem:
                raise ValueError(f"{folder / name} {problem}; {advice}")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CHECKSUMS} is damaged ({error!r}); {advice}") from error


def _is_data(name: str) -> bool:
    return name.startswith("data.")


def _compare(path: Path, num_bytes: int, sha256: str | None) -> str:
    """What is wrong with a file, or nothing.

    Raises:
        ValueError: If it only stands for the file.
    """
    got = f"has {path.stat().st_size} bytes" if path.is_file() else "is missing"
    if got != f"has {num_bytes} bytes":
        if path.is_file():
            refuse_stand_in(path)
        return f"{got}, expected {num_bytes} bytes: the folder is truncated or was not copied whole"
    if sha256 is not None and file_digest(path) != sha256:
        return f"is damaged: its SHA-256 is {file_digest(path)}, expected {sha256}"
    return ""
