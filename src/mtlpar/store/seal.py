"""The seal of a folder: which files it holds, how long they are, and checksums.

ADIOS2 hangs on a truncated file and crashes on damaged metadata, so a folder is checked before
ADIOS2 sees it. Metadata files are small and checked whole. The data files can be huge: only their
length is checked here, their content by the checksums of `mtlpar.store.bp` when it is read.
Checkpoints are sealed too, and checked whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from mtlpar.core.files import file_digest, read_json, write_json

SEAL: Final = "seal.json"
_ADVICE: Final = "write or copy the folder again"


def write_seal(folder: Path) -> None:
    """Seal a finished folder."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        files[path.name] = {"bytes": path.stat().st_size}
        if not _is_data(path.name):
            files[path.name]["sha256"] = file_digest(path)
    write_json(folder / SEAL, files)


def check_seal(folder: Path, *, only: str | None = None, advice: str = _ADVICE) -> None:
    """Make sure that a folder holds the files that were sealed.

    Args:
        folder: The folder.
        only: Look at this one of its files.
        advice: What to do if it does not.

    Raises:
        ValueError: If it has no seal, or if a file is missing, truncated or damaged.
    """
    if not (folder / SEAL).is_file():
        raise ValueError(
            f"{folder} was not written by mtlpar, or not to the end: no {SEAL} in it; {advice}"
        )
    try:
        files = read_json(folder / SEAL)
        if not files:
            raise ValueError(f"{folder / SEAL} names no files; {advice}")
        for name, sealed in files.items() if only is None else [(only, files[only])]:
            problem = _compare(
                folder / name, sealed["bytes"], None if _is_data(name) else sealed["sha256"]
            )
            if problem:
                raise ValueError(f"{folder / name} {problem}; {advice}")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / SEAL} is damaged ({error!r}); {advice}") from error


def _is_data(name: str) -> bool:
    return name.startswith("data.")


def _compare(path: Path, num_bytes: int, sha256: str | None) -> str:
    """What is wrong with a file, or nothing."""
    got = f"has {path.stat().st_size} bytes" if path.is_file() else "is missing"
    if got != f"has {num_bytes} bytes":
        return f"{got}, expected {num_bytes} bytes: the folder is truncated or was not copied whole"
    if sha256 is not None and file_digest(path) != sha256:
        return f"is damaged: its SHA-256 is {file_digest(path)}, expected {sha256}"
    return ""
