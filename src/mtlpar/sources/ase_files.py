"""Sources that only the configuration knows, in files that ASE reads: extended XYZ and databases.

Labels are taken as they are stored. ASE's ``get_forces`` would set the forces on constrained atoms
to zero, and those are labels too. Files are streamed frame by frame and are one piece.
"""

from __future__ import annotations

import io
import lzma
import re
import sqlite3
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.db import connect
from ase.io.extxyz import read_xyz
from ase.io.formats import UnknownFileTypeError, open_with_compression

from mtlpar.core.hashing import name_hash
from mtlpar.core.units import (
    BOHR_ANGSTROM,
    EV_PER_CUBIC_ANGSTROM_GPA,
    HARTREE_EV,
    KBAR_GPA,
    KCAL_PER_MOL_EV,
    KJ_PER_MOL_EV,
)
from mtlpar.sources.base import LabelUse, RawBlock, Source
from mtlpar.sources.reading import (
    Columns,
    Progress,
    as_atomic_numbers,
    as_floats,
    collect_records,
    reduced_formula,
)
from mtlpar.sources.settings import CustomSource, SourceSettings

_ENERGY: Final = {
    "eV": 1.0,
    "Hartree": HARTREE_EV,
    "kcal/mol": KCAL_PER_MOL_EV,
    "kJ/mol": KJ_PER_MOL_EV,
}
_LENGTH: Final = {"Å": 1.0, "Bohr": BOHR_ANGSTROM}
_STRESS: Final = {
    "eV/Å^3": 1.0,
    "GPa": 1 / EV_PER_CUBIC_ANGSTROM_GPA,
    "kbar": KBAR_GPA / EV_PER_CUBIC_ANGSTROM_GPA,
}
_VOIGT: Final = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])
_ROWS_AT_ONCE: Final = 256
_MAX_FRAME_BYTES: Final = 1 << 28
# Charges and spins are kept in a byte; predictions take the same range.
_MOST: Final = int(np.iinfo(np.int8).max)
# From here on a float stands for several integers.
_FIRST_INEXACT: Final = 2**53
_LMDB: Final = ".aselmdb"
_SQLITE: Final = b"SQLite format 3\x00"
_OPTIONAL_KEYS: Final = ("stress_key", "charge_key", "spin_key")
_CONTAINER_ERRORS: Final = (OSError, EOFError, lzma.LZMAError, zlib.error, sqlite3.Error)
# Columns of a property in a damaged header: ASE would make room for so many.
_ABSURD_COLUMNS: Final = re.compile(rb":[RISL]:\d{5}")
# What ASE raises for text that is no frame.
_ASE_ERRORS: Final = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, TypeError, ValueError,
)  # fmt: skip


def custom_source(name: str, custom: CustomSource) -> Source:
    """The source that a part of the configuration describes."""
    return Source(
        name=name,
        title=custom.title or name,
        data_files=custom.files,
        needs_all_files=True,
        level_of_theory=custom.level_of_theory,
        read=partial(read, name, custom),
    )


def read(
    name: str, custom: CustomSource, path: Path, _settings: SourceSettings
) -> Iterator[RawBlock]:
    """Stream a file.

    Structures are dropped as ``missing_energy``, ``missing_forces`` or ``missing_group``. Those
    that lack another label which the configuration names are kept and counted.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    records = {"extxyz": _frames, "db": _rows}[custom.format]
    progress = Progress(path)
    use = LabelUse()
    parse = partial(_parse, name, custom, use)
    errors: tuple[type[Exception], ...] = (*_CONTAINER_ERRORS, *_lmdb_errors(path))
    for block in collect_records(progress, records(path), parse, *errors):
        yield replace(block, labels=use.take())
    if not progress.rows:
        raise ValueError(f"{path} holds no structures, expected {custom.format}")


def _frames(path: Path) -> Iterator[tuple[str, bytes]]:
    """Number and text of each frame of an extended XYZ file."""
    with open_with_compression(str(path), "rb") as stream:
        index = 0
        # Some editors put a mark of the encoding in front.
        if stream.read(len(BOM_UTF8)) != BOM_UTF8:
            stream.seek(0)
        while line := stream.readline():
            if not line.strip():
                continue
            yield f"frame {index}", line + _rest_of_frame(stream, line, index)
            index += 1


def _rest_of_frame(stream: IO[bytes], line: bytes, index: int) -> bytes:
    if not line.strip().isdigit():
        raise OSError(f"frame {index} begins with {line[:60]!r}, expected a number of atoms")
    lines, size = list[bytes](), 0
    # The number may be damaged, and then it may be of any size.
    while len(lines) <= int(line) and size < _MAX_FRAME_BYTES:
        lines.append(stream.readline())
        size += len(lines[-1])
        if not lines[-1]:
            raise EOFError(f"the file ends inside frame {index} of {int(line)} atoms")
    if len(lines) <= int(line):
        raise OSError(f"frame {index} of {int(line)} atoms does not end")
    return b"".join(lines)


def _parse(
    name: str, custom: CustomSource, use: LabelUse, content: Any, where: str
) -> Columns | str:
    """Columns of a frame or row, or why it cannot be used; ``use`` is kept up to date."""
    open_record = {"extxyz": _open_frame, "db": _open_row}[custom.format]
    atoms, labels = open_record(content, where)
    use.see(map(str, labels))
    columns = _columns(name, custom, atoms, labels, where)
    if not isinstance(columns, str):
        asked = {option: getattr(custom, option) for option in _OPTIONAL_KEYS}
        use.count(
            f"{option}: {key}"
            for option, key in asked.items()
            if key is not None and labels.get(key) is None
        )
    return columns


def _open_frame(text: bytes, where: str) -> tuple[Any, dict[str, Any]]:
    """Structure and labels of a frame."""
    header = text.split(b"\n", maxsplit=2)[1]
    if absurd := _ABSURD_COLUMNS.search(header):
        raise ValueError(f"{where}: Properties have {absurd[0]!r}... columns; {header[:200]!r}")
    try:
        atoms: Atoms = next(read_xyz(io.StringIO(text.decode()), index=0))
    except KeyError as error:
        # ASE looks up nothing but symbols.
        advice = (
            " (write H: isotopes do not differ in energy)" if error.args[0] in ("D", "T") else ""
        )
        raise ValueError(f"{where}: there is no element {error}{advice}") from error
    except _ASE_ERRORS as error:
        raise ValueError(f"{where}: ASE cannot read it: {error}; {text[:200]!r}") from error
    results = {} if atoms.calc is None else atoms.calc.results
    return atoms, {**atoms.arrays, **atoms.info, **results}


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Number and content of each row of an ASE database, in the order of the numbers."""
    # ASE would make a database of an empty file.
    if not path.is_file() or path.stat().st_size == 0:
        raise OSError("it is no file, or an empty one")
    _require_systems(path)
    try:
        for row in _select_all(path):
            yield f"row {row.id}", row
    except (*_ASE_ERRORS, UnknownFileTypeError) as error:
        raise OSError(f"ASE cannot read it: {type(error).__name__}: {error}") from error


def _require_systems(path: Path) -> None:
    """Look for the table of structures: in SQLite files without one ASE makes it, unasked.

    Raises:
        ValueError: If it is missing.
    """
    with path.open("rb") as stream:
        if stream.read(len(_SQLITE)) != _SQLITE:
            return
    # Nobody writes raw files any more, and so there is no need for locks or files beside this one.
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(address, uri=True)) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = [name for (name,) in found]
    if "systems" not in tables:
        raise ValueError(
            f"{path} is no ASE database: SQLite finds no table 'systems' in it, only "
            f"{', '.join(tables) or 'nothing'}; correct custom_sources or convert it with ASE"
        )


def _select_all(path: Path) -> Iterator[Any]:
    is_sqlite, is_lmdb = path.suffix == ".db", path.suffix == _LMDB
    # ASE would open it for writing.
    options = {"readonly": True} if is_lmdb else {}
    with connect(path, use_lock_file=False, **options) as database:  # type: ignore[no-untyped-call]
        if not is_sqlite:
            # The others stream by themselves, and would start anew for every block.
            yield from database.select()
            return
        # A select of everything would hold everything.
        last = 0
        while rows := list(database.select(f"id>{last}", limit=_ROWS_AT_ONCE)):
            yield from rows
            last = rows[-1].id


def _lmdb_errors(path: Path) -> tuple[type[Exception], ...]:
    """What damaged databases of LMDB raise; they need a package that few others need.

    Raises:
        ValueError: If the file is one and the package is not installed.
    """
    if path.suffix != _LMDB:
        return ()
    try:
        backend: Any = import_module("ase_db_backends.aselmdb")
    except ImportError as error:
        raise ValueError(
            f"{path}: ASE reads {_LMDB} files with a package that is not installed ({error}); "
            "`pip install ase-db-backends`"
        ) from error
    return (backend.lmdb.Error,)


def _open_row(row: Any, where: str) -> tuple[Any, dict[str, Any]]:
    """Structure and labels of a row; a row of a database has what a structure has."""
    try:
        labels = {**row.data, **row.key_value_pairs}
    except _ASE_ERRORS as error:
        raise ValueError(f"{where}: ASE cannot read its data: {error!r}") from error
    for key in ("charge", *all_properties):
        if key in row:
            labels[key] = row[key]
    return row, labels


def _columns(
    name: str, custom: CustomSource, atoms: Any, labels: dict[str, Any], where: str
) -> Columns | str:
    size = len(atoms.numbers)
    if labels.get(custom.energy_key) is None:
        return "missing_energy"
    if labels.get(custom.forces_key) is None:
        return "missing_forces"
    group = reduced_formula(atoms.numbers.tolist())
    if custom.group_key is not None:
        if labels.get(custom.group_key) is None:
            return "missing_group"
        group = _group_name(labels[custom.group_key], custom.group_key, where)
    energy_ev = _ENERGY[custom.energy_unit]
    energy = as_floats(labels[custom.energy_key], (), name=custom.energy_key, where=where)
    forces = as_floats(labels[custom.forces_key], (size, 3), name=custom.forces_key, where=where)
    return {
        "atomic_numbers": as_atomic_numbers(atoms.numbers, where=where),
        "positions": as_floats(atoms.positions, (size, 3), name="positions", where=where),
        "energy": float(energy) * energy_ev,
        "forces": forces * (energy_ev / _LENGTH[custom.length_unit]),
        "group": name_hash(name, group),
        "cell": np.array(atoms.cell),
        "pbc": np.array(atoms.pbc, np.uint8),
        "charge": _whole_number(labels, custom.charge_key, where, least=-_MOST),
        "spin": _whole_number(labels, custom.spin_key, where, least=0),
        **_stress_columns(custom, labels, where),
    }


def _group_name(value: Any, key: str, where: str) -> str:
    """Text of a group's name, the same whether it was written as 7 or as 7.0.

    ASE reads what looks like a number as one; then large ones are rounded to the same float.
    """
    if isinstance(value, (str, bool, np.bool_, Integral)):
        return str(value)
    if not isinstance(value, Real) or not abs(float(value)) < _FIRST_INEXACT:
        raise ValueError(
            f"{where}: {key!r} is {value!r:.80}, which names no group for certain; expected a text "
            f"or a number below {_FIRST_INEXACT:,}: write the names as text that is no number, for "
            "instance with a letter in front"
        )
    number = float(value)
    return str(int(number) if number.is_integer() else number)


def _stress_columns(custom: CustomSource, labels: dict[str, Any], where: str) -> Columns:
    key = custom.stress_key
    if key is None or labels.get(key) is None:
        return {"stress": np.zeros(6), "stress_mask": 0}
    values = np.asarray(labels[key])
    if values.size == 9:
        values = values.reshape(3, 3)[_VOIGT]
    stress = as_floats(values, (6,), name=key, where=where)
    return {"stress": stress * _STRESS[custom.stress_unit], "stress_mask": 1}


def _whole_number(labels: dict[str, Any], key: str | None, where: str, *, least: int) -> int:
    if key is None or labels.get(key) is None:
        return 0
    value = float(as_floats(labels[key], (), name=key, where=where))
    if not value.is_integer() or not least <= value <= _MOST:
        raise ValueError(
            f"{where}: {key!r} is {value}, expected an integer from {least} to {_MOST}"
        )
    return int(value)
