"""Streams the rows of ASE's databases: SQLite, JSON and LMDB."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.calculators.calculator import all_properties
from ase.db import connect
from ase.io.formats import UnknownFileTypeError

from mtlpar.core.first_bytes import HEAD_BYTES, LMDB, SQLITE
from mtlpar.sources.file_kinds import kind_of_file

ENDINGS: Final = (".db", ".json", ".aselmdb")

# ASE's databases of JSON begin with the number of a row, and empty ones with what follows rows.
_FIRST_KEY: Final = re.compile(rb'\s*\{\s*"(?:[0-9]+|metadata|ids|nextid)"\s*:')
_ROWS_AT_ONCE: Final = 256
_IN_USE: Final = "already open in this process"
_SEVERAL_DOCUMENTS: Final = "Extra data"
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
# What ASE raises for content that is no row.
_ASE_ERRORS: Final = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, SyntaxError, TypeError,
    ValueError,
)  # fmt: skip
# Columns that ASE stores as arrays of doubles, and how many they hold for each atom.
_DOUBLES: Final = {
    "positions": 3, "forces": 3, "momenta": 3, "masses": 1, "magmoms": 1, "charges": 1,
    "initial_magmoms": 1, "initial_charges": 1,
}  # fmt: skip
# What a row has to have of a structure, and kinds of numbers that it may be.
_STRUCTURE: Final = {"numbers": "iu", "positions": "fiu", "cell": "fiu", "pbc": "biu"}
_INT_BYTES: Final = 4
_SINGLE_BYTES: Final = 4
_SINGLE: Final = "in single precision, which ASE does not read; write it again with ASE, in double"


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row that stands in the file, but that ASE cannot read.

    Attributes:
        reason: Why.
    """

    reason: str


def is_something_else(path: Path) -> bool:
    """Whether a file named like a database holds no rows, by its beginning: much is JSON or SQLite.

    What is damaged is not something else.
    """
    kind = kind_of_file(path)
    if kind == SQLITE:
        try:
            return "systems" not in _tables(path)
        except sqlite3.Error:
            return False
    if kind is not None or path.suffix.lower() != ".json":
        return False
    with path.open("rb") as stream:
        return _FIRST_KEY.match(stream.read(HEAD_BYTES)) is None


def rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Number and content of each row of an ASE database, in the order of the numbers.

    Raises:
        ValueError: If the file is not an ASE database, or is in use.
        OSError: If ASE cannot read it.
    """
    # What it is counts, not its name. ASE would make a database of an empty file.
    kind = kind_of_file(path)
    if kind == SQLITE:
        _require_systems(path)
    elif kind == LMDB:
        _require_closed(path)
    select = {SQLITE: _select_sqlite, LMDB: _select_lmdb}.get(kind or "", _select_json)
    try:
        for number, row in select(path):
            yield f"row {number}", row
    except UnknownFileTypeError as error:
        raise ValueError(
            f"{path} is not an ASE database: {error}; convert it with ASE, or write a reader "
            "(docs/add_a_source.md)"
        ) from error
    except sqlite3.OperationalError as error:
        # Text that is no text has no code: Python says so, not SQLite.
        if getattr(error, "sqlite_errorcode", None) not in _BUSY:
            raise
        raise ValueError(
            f"{path} is in use ({error}): wait for the program that writes it to end, then run "
            "again"
        ) from error
    except _ASE_ERRORS as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == _SEVERAL_DOCUMENTS:
            raise ValueError(
                f"{path} is not an ASE database: it holds several JSON documents, perhaps one per "
                "line; convert it with ASE, or write a reader (docs/add_a_source.md)"
            ) from error
        raise OSError(f"ASE cannot read it: {type(error).__name__}: {error}") from error


def open_row(row: Any, where: str) -> tuple[Any, dict[str, Any]]:
    """Structure and labels of a row; a row of a database has what a structure has.

    Raises:
        ValueError: If ASE cannot read it.
    """
    if isinstance(row, UnreadableRow):
        raise ValueError(f"{where}: {row.reason}")
    _require_structure(row, where)
    # Asked for a key called charge, mass, volume or symbols, a row gives what it computes itself.
    stored = vars(row)
    for name in ("positions", "forces"):
        # Of an even number of atoms ASE makes doubles of pairs of them.
        if name in stored and 2 * np.size(stored[name]) == 3 * len(row.numbers) > 0:
            raise ValueError(f"{where}: {name} are {_SINGLE}")
    try:
        pairs = {key: stored[key] for key in row._keys}
        labels = {**row.data, **pairs}
    except _ASE_ERRORS as error:
        raise ValueError(f"{where}: ASE cannot read its data: {error!r}") from error
    results = {key: stored[key] for key in all_properties if key in stored}
    return row, {**labels, **results}


def _require_structure(row: Any, where: str) -> None:
    """Refuse a row that is no structure: ASE reads it, and fails where it is asked for one."""
    for name, kinds in _STRUCTURE.items():
        value = getattr(row, name, None)
        if value is None or np.asarray(value).dtype.kind not in kinds:
            got = "there are none" if value is None else f"got {value!r:.60}"
            raise ValueError(f"{where}: {name} of the row should be numbers, {got}")


def errors_of_lmdb(path: Path) -> tuple[type[Exception], ...]:
    """What a damaged database of LMDB raises.

    Raises:
        ValueError: If the package that reads it is not installed; few others need it.
    """
    return (_lmdb(path).lmdb.Error,)


def _select_json(path: Path) -> Iterator[tuple[int, Any]]:
    with connect(path, type="json", use_lock_file=False) as database:  # type: ignore[no-untyped-call]
        for row in database.select():
            yield row.id, row


def _select_lmdb(path: Path) -> Iterator[tuple[int, Any]]:
    # ASE would open it for writing.
    options = {"type": "aselmdb", "readonly": True, "use_lock_file": False}
    with connect(path, **options) as database:  # type: ignore[no-untyped-call]
        for row in database.select():
            yield row.id, row


def _require_closed(path: Path) -> None:
    """Look whether LMDB opens a file: ASE fails a second time as it cleans up, with a traceback.

    Raises:
        ValueError: If it is open in this process.
    """
    backend = _lmdb(path)
    try:
        backend.lmdb.open(str(path), subdir=False, readonly=True, lock=False).close()
    except backend.lmdb.Error as error:
        if _IN_USE not in str(error):
            raise
        raise ValueError(
            f"{path} is open in this process already, and LMDB opens a file once; close the other "
            "database first"
        ) from error


def _lmdb(path: Path) -> Any:
    try:
        return import_module("ase_db_backends.aselmdb")
    except ImportError as error:
        raise ValueError(
            f"{path}: ASE reads {LMDB} with a package that is not installed ({error}); "
            "`pip install ase-db-backends`"
        ) from error


def _select_sqlite(path: Path) -> Iterator[tuple[int, Any]]:
    with connect(path, type="db", use_lock_file=False) as database:  # type: ignore[no-untyped-call]
        # A select of everything would hold everything.
        last, before = 0, -1
        while before < last:
            before = last
            # One by one: a row that ASE cannot read costs none but itself.
            try:
                for row in database.select(f"id>{last}", limit=_ROWS_AT_ONCE):
                    yield row.id, row
                    last = row.id
            except _ASE_ERRORS as error:
                last, reason = _next_row(path, last, error)
                yield last, UnreadableRow(reason)


def _next_row(path: Path, last: int, error: Exception) -> tuple[int, str]:
    """Number of the row that comes after another one, and why ASE cannot read it."""
    lengths = ", ".join(f"length({name})" for name in ("numbers", *_DOUBLES))
    with closing(_read_only(path)) as database:
        number, of_numbers, *found = database.execute(
            f"SELECT id, {lengths} FROM systems WHERE id > ? ORDER BY id LIMIT 1", (last,)
        ).fetchone()
    atoms = of_numbers // _INT_BYTES
    single = [
        name
        for (name, per_atom), length in zip(_DOUBLES.items(), found, strict=True)
        if length == _SINGLE_BYTES * per_atom * atoms > 0
    ]
    reason = f"{' and '.join(single)} are {_SINGLE}" if single else f"ASE cannot read it: {error}"
    return number, reason


def _require_systems(path: Path) -> None:
    """Look for the table of structures: in SQLite files without one ASE makes it, unasked.

    Raises:
        ValueError: If it is missing.
    """
    tables = _tables(path)
    if "systems" not in tables:
        raise ValueError(
            f"{path} is not an ASE database: SQLite finds no table 'systems' in it, only "
            f"{', '.join(tables) or 'nothing'}; correct custom_sources or convert it with ASE"
        )


def _tables(path: Path) -> list[str]:
    with closing(_read_only(path)) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return [name for (name,) in found]


def _read_only(path: Path) -> sqlite3.Connection:
    """Open a raw file, which nobody writes any more: no locks, and no files beside it."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
