"""Files that are either whole or absent, and the manifests that say so."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from mtlpar.core.first_bytes import HEAD_BYTES, refuse_stand_in


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends well.

    What the block writes may be a file or a folder. If the block raises, nothing appears under the
    final name and the temporary is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    remove(temporary)
    try:
        with _named_in_errors(path):
            yield temporary
        if temporary.is_dir():
            remove(path)
        temporary.replace(path)
    finally:
        remove(temporary)


def link(kept: Path, path: Path) -> None:
    """Give a file a second name that stays when the first one goes; a copy where that cannot be."""
    with atomic_path(path) as temporary:
        try:
            os.link(kept, temporary)
        except OSError:
            shutil.copyfile(kept, temporary)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path`` for what only this block needs, and remove it after."""
    temporary = _temporary(path)
    remove(temporary)
    temporary.mkdir(parents=True)
    try:
        with _named_in_errors(path):
            yield temporary
    finally:
        remove(temporary)


@contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    """Put a path into errors of the operating system: a write that fails does not say where."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove the temporaries of processes that were killed while they wrote into a folder."""
    for path in _temporaries(folder, ".*"):
        remove(path)


def remove_leftovers_of(paths: Iterable[Path]) -> None:
    """Remove the temporaries of processes, of any machine, that were killed as they wrote these.

    Args:
        paths: What nobody but the caller writes now.
    """
    for path in paths:
        for leftover in _temporaries(path.parent, f".{glob.escape(path.name)}.*"):
            remove(leftover)


def _temporary(path: Path) -> Path:
    """A name for what is to become ``path``, and room beside it."""
    _remove_abandoned(path.parent.absolute())
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


def _temporaries(folder: Path, pattern: str) -> list[Path]:
    """Temporaries by a pattern of their names, and what SQLite keeps beside them."""
    return [path for end in (".tmp", ".tmp-*") for path in folder.glob(f"{pattern}{end}")]


@cache
def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder; one look is enough."""
    host = f".{socket.gethostname()}-"
    for path in _temporaries(folder, f".*{glob.escape(host)}*"):
        process = path.name.rpartition(host)[2].partition(".tmp")[0]
        if process.isdigit() and not _lives(int(process)):
            # Another process may be at it too.
            with suppress(OSError):
                remove(path)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return True


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """Read a text that somebody wrote; some editors put a mark of its encoding in front.

    Raises:
        ValueError: If it is not UTF-8, or only stands for a file that was not fetched.
    """
    content = path.read_bytes()
    refuse_stand_in(path, content[:HEAD_BYTES])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error}); save it in that encoding") from error


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON atomically; numbers keep all their digits."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, stage: str | None = None) -> Any:
    """Read a JSON file that another stage wrote.

    Args:
        path: The file.
        stage: The command that writes it.

    Raises:
        ValueError: If the file is missing or is not JSON; the message says which stage to run.
    """
    try:
        return json.loads(read_bytes(path, stage=stage))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        again = f"run mtlpar {stage} again" if stage else "run again"
        raise ValueError(f"{path} is not valid JSON ({error}); remove it and {again}") from error


def read_bytes(path: Path, *, stage: str | None = None) -> bytes:
    """Read a file that another stage wrote.

    Raises:
        ValueError: If it is missing, is a folder or only stands for a file that was not fetched;
            the message says which stage to run.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(missing(path, stage)) from None
    except IsADirectoryError:
        raise ValueError(
            f"{path} is a folder, expected a file; remove it and {run_first(stage)}"
        ) from None
    refuse_stand_in(path, content[:HEAD_BYTES])
    return content


def missing(path: Path, stage: str | None = None) -> str:
    """What to say of a file that is not there; a relative path does not say where that is."""
    where = "" if path.is_absolute() else f" in {Path.cwd()}, where mtlpar was started"
    return f"{path} is missing{where}; {run_first(stage)}"


def run_first(stage: str | None) -> str:
    """Advice to run the command that writes what is missing."""
    return f"run mtlpar {stage} first" if stage else "run the stage that writes it first"


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def format_bytes(size: float) -> str:
    """A number of bytes for people, with three digits in decimal units: ``"5.59 GB"``."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    decimals = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {unit}"
