"""What of a download is on this disk already, and whether the rest will fit."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mtlpar.core.files import format_bytes
from mtlpar.download.part import RawFile


@dataclass(frozen=True, slots=True)
class Presence:
    """What is here of a file; its checksum is not looked at.

    Attributes:
        state: ``whole`` if length and kind are right, ``partial`` if a transfer was interrupted.
        size: Bytes that are here and of use.
    """

    state: Literal["whole", "partial", "absent", "other length", "folder in the way"]
    size: int


def presence(file: RawFile, folder: Path) -> Presence:
    """What is here of a file."""
    path = folder / file.name
    if path.is_dir():
        return Presence("folder in the way", 0)
    if path.is_file():
        size = path.stat().st_size
        is_whole = file.bytes in (None, size)
        return Presence("whole", size) if is_whole else Presence("other length", 0)
    part = path.with_name(f"{path.name}.part")
    if part.is_file() and part.stat().st_size:
        return Presence("partial", part.stat().st_size)
    return Presence("absent", 0)


def length(file: RawFile, folder: Path) -> int | None:
    """Length of a file as announced, or as it is here; None if nobody knows."""
    if file.bytes is not None:
        return file.bytes
    found = presence(file, folder)
    return found.size if found.state == "whole" else None


def bytes_to_fetch(file: RawFile, folder: Path) -> int:
    """Bytes that still have to come; 0 if the length is not known."""
    return max(0, (file.bytes or 0) - presence(file, folder).size)


def check_space(files: Iterable[tuple[RawFile, Path]]) -> None:
    """Compare what is still to come with the free space of the disks it goes to.

    Args:
        files: Files, each with the folder it goes to.

    Raises:
        ValueError: If it does not fit.
    """
    needed: defaultdict[int, int] = defaultdict(int)
    folders: dict[int, Path] = {}
    for file, folder in files:
        base = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        device = base.stat().st_dev
        needed[device] += bytes_to_fetch(file, folder)
        folders.setdefault(device, base)
    for device, folder in folders.items():
        free = shutil.disk_usage(folder).free
        if needed[device] > free:
            raise ValueError(
                f"{format_bytes(needed[device])} ({needed[device]:,} bytes) are still to be "
                "fetched, but "
                f"{folder} has only {format_bytes(free)} ({free:,} bytes) free; free space there "
                "or set paths.raw to a folder on a larger disk. Nothing was fetched."
            )
