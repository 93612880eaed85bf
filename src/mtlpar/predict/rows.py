"""Rows of input files: found without being parsed, so that ranks can share them out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from ase import Atoms

from mtlpar.core.ase_structures import AtomsLike, Structure, iterate_structures
from mtlpar.core.electronic_state import CHARGE_KEYS, SPIN_KEYS
from mtlpar.core.system_errors import is_of_the_system
from mtlpar.sources import ase_databases
from mtlpar.sources.ase_containers import (
    CONTAINER_ERRORS,
    CONTAINERS,
    Container,
    container_of,
    errors_of,
    format_of,
    frames_of,
)
from mtlpar.store.pack import open_folder

logger = logging.getLogger(__name__)

STDIN: Final = "-"
"""The name of standard input, from which extended XYZ is read."""

_BLOCK: Final = 4096
_PACK: Final = ".bp"


class Row(NamedTuple):
    """One structure of an input file, not parsed yet, or all that a damaged file holds no more of.

    Attributes:
        name: File and number of the row.
        container: How it is opened; None if it is a structure already.
        content: What was read of it.
        damage: Why the file cannot be read, or not from here on; None for a structure.
    """

    name: str
    container: Container | None
    content: Any
    damage: str | None = None

    def open(self) -> AtomsLike:
        """The structure, with charge and spin where the row states them.

        Raises:
            ValueError: If it cannot be read.
        """
        if self.damage is not None:
            raise ValueError(self.damage)
        if self.container is None:
            structure: Structure = self.content
            return structure
        found, labels = self.container.open_record(self.content, self.name)
        state = {key: labels[key] for key in (*CHARGE_KEYS, *SPIN_KEYS) if key in labels}
        return Atoms(found.numbers, found.positions, cell=found.cell, pbc=found.pbc, info=state)


def input_files(
    paths: Iterable[Path], *, without: Collection[Path] = (), tell: bool = True
) -> list[Path]:
    """Files, packs and standard input in the order given; folders stand for all that they hold.

    Args:
        paths: What was asked for. Files in a folder whose names are those of databases but which
            hold something else, such as settings in JSON, are left out, and said.
        without: What the run itself writes, files or folders. They are left out of what folders
            hold: there they are from a run before, or from this one before it was interrupted.
        tell: Say what is left out; one of several ranks does.

    Raises:
        ValueError: If one does not exist or is what the run writes, or a folder holds nothing that
            is read.
    """
    written = {path.resolve() for path in without}
    found: list[Path] = []
    for path in paths:
        if str(path) == STDIN:
            found.append(path)
        elif path.resolve() in written:
            raise ValueError(
                f"{path} is an input and would be overwritten; name another file with --out"
            )
        elif path.is_file() or (path.suffix == _PACK and path.exists()):
            found.append(path)
        elif path.is_dir():
            inside = [
                one
                for one in sorted(path.rglob("*"))
                if _is_input(one) and not written & {one.resolve(), *one.resolve().parents}
            ]
            others = {one for one in inside if _is_something_else(one)}
            if others and tell:
                names = ", ".join(str(one.relative_to(path)) for one in sorted(others))
                logger.warning("%s: left out, for they hold no structures: %s", path, names)
            inside = [one for one in inside if one not in others]
            if not inside:
                raise ValueError(f"{path} holds no file of a known format; expected {_formats()}")
            found += inside
        elif path.exists():
            raise ValueError(
                f"{path} is a pipe or a device, which can be read only once; write - "
                "for extended XYZ from standard input, or save it as a file"
            )
        else:
            raise ValueError(f"{path} does not exist")
    return found


def rows_of(path: Path, *, tell: bool = True) -> Iterator[Row]:
    """Rows of one file, in order.

    Where the file is damaged, cut off or of a format that is not read, the last row stands for all
    that cannot be read. `tell` is as for `input_files`.
    """
    name = str(path)
    try:
        for row in _rows_of_sound_file(path, tell=tell):
            name = f"{path} after {row.name.removeprefix(f'{path} ')}"
            yield row
    except ValueError as error:
        yield Row(name, None, None, damage=str(error))


def _rows_of_sound_file(path: Path, *, tell: bool) -> Iterator[Row]:
    """Rows of one file.

    Raises:
        ValueError: If the file is of a format that is not read, or is damaged.
    """
    if path.suffix == _PACK:
        yield from _rows_of_pack(path)
        return
    container, records = CONTAINERS["extxyz"], partial(frames_of, sys.stdin.buffer)
    errors: tuple[type[Exception], ...] = CONTAINER_ERRORS
    if str(path) != STDIN:
        container, errors = container_of(path), errors_of(path)
        records = partial(container.records, path)
    is_empty = True
    try:
        for key, content in records():
            is_empty = False
            yield Row(f"{path} {key}", container, content)
    except errors as error:
        if is_of_the_system(error):
            raise
        raise ValueError(f"{path} is damaged or cut off: {error}") from error
    except ValueError as error:
        # Frames do not know which file they are of.
        text = str(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    if is_empty and tell:
        logger.warning("%s holds no structures", path)


def _rows_of_pack(path: Path) -> Iterator[Row]:
    name = str(path)
    with open_folder(path) as reader:
        for first in range(0, len(reader), _BLOCK):
            batch = reader.read(first, min(first + _BLOCK, len(reader)))
            for index, structure in enumerate(iterate_structures(batch), first):
                yield Row(f"{name} structure {index}", None, structure)


def _is_input(path: Path) -> bool:
    inside_of_pack = any(parent.suffix == _PACK for parent in path.parents)
    if inside_of_pack:
        return False
    return path.suffix == _PACK or (path.is_file() and format_of(path.name) is not None)


def _is_something_else(path: Path) -> bool:
    is_named_so = path.name.lower().endswith(ase_databases.ENDINGS)
    return is_named_so and ase_databases.is_something_else(path)


def _formats() -> str:
    endings = [ending for one in CONTAINERS.values() for ending in one.endings]
    return f"{' '.join(endings)} (also .gz, .bz2 or .xz) or {_PACK}"
