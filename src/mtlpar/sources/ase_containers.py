"""Streams structures and what is said of them out of files that ASE reads, one record at a time.

Labels are taken as they are stored. ASE's ``get_forces`` would set the forces on constrained atoms
to zero, and those are labels too.
"""

from __future__ import annotations

import io
import lzma
import re
import sqlite3
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.db import connect
from ase.io.extxyz import key_val_str_to_dict, read_xyz
from ase.io.formats import UnknownFileTypeError, open_with_compression
from ase.io.trajectory import TrajectoryReader
from ase.stress import voigt_6_to_full_3x3_stress

Labels = dict[str, Any]
"""What a record says of its structure, by key: results, values and arrays of the atoms."""

CONTAINER_ERRORS: Final = (OSError, EOFError, lzma.LZMAError, zlib.error, sqlite3.Error)
"""What reading a damaged file raises, whatever its format."""

_ROWS_AT_ONCE: Final = 256
_MAX_FRAME_BYTES: Final = 1 << 28
_LMDB: Final = ".aselmdb"
_IN_USE: Final = "already open in this process"
_SQLITE: Final = b"SQLite format 3\x00"
# Columns of a property in a damaged header: ASE would make room for so many.
_ABSURD_COLUMNS: Final = re.compile(rb":[RISL]:\d{5}")
# Keys that ASE has a meaning of its own for, and what hides them from it.
_MATRICES: Final = re.compile(r"(^|\s)(stress|virial)=")
_OURS: Final = "mtlpar_"
# Entries without a value, outside of quotation marks: ASE takes the entry behind for one, with 3.29
# the energy too (findings/an_empty_note_swallows_the_energy_behind_it.sh).
_QUOTED: Final = r"""[^\s="']+=(?:"[^"]+"|'[^']+')"""
_EMPTY: Final = re.compile(rf"""({_QUOTED})|(?<!\S)[^\s="']+=(?:""|'')?(?=\s|$)""")
# Keys of the format by what people write for them, and what finds the keys of a header.
_FORMAT_KEYS: Final = {
    "lattice": "Lattice", "cell": "Lattice", "pbc": "pbc", "properties": "Properties",
}  # fmt: skip
_QUOTES: Final = re.compile(rb""""[^"]*"|'[^']*'""")
_HEADER_KEY: Final = re.compile(rb"(?<!\S)([A-Za-z]+)\s*=")
# What ASE raises for text that is no frame.
_ASE_ERRORS: Final = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Container:
    """How files of one format are read.

    Attributes:
        records: Streams key and content of each record.
        open_record: Structure and labels of a record, given its content and place.
        endings: Endings of the names of such files, without those of compression.
    """

    records: Callable[[Path], Iterator[tuple[str, Any]]]
    open_record: Callable[[Any, str], tuple[Any, Labels]]
    endings: tuple[str, ...]


def _frames(path: Path) -> Iterator[tuple[str, bytes]]:
    """Number and text of each frame of an extended XYZ file."""
    with open_with_compression(str(path), "rb") as stream:
        yield from frames_of(stream)


def frames_of(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Number and text of each frame of extended XYZ.

    Raises:
        OSError: If a frame is laid out otherwise, or cut off.
        ValueError: If a header has a key of the format in other letters, such as ``lattice``.
    """
    frames = enumerate(_texts_of(stream))
    for index, text in frames:
        if misnamed := _misnamed(text):
            count = 1
            # What is wrong with later frames does not matter here.
            with suppress(*CONTAINER_ERRORS):
                for _, later in frames:
                    count += _misnamed(later) is not None
            raise ValueError(
                f"{count} frames, from frame {index} on, have a key in their second line that "
                f"means nothing to ASE, such as {misnamed[0]}=, expected {misnamed[1]}=: cell, "
                "periodicity or columns would be lost; rename it in the file"
            )
        yield f"frame {index}", text


def _texts_of(stream: IO[bytes]) -> Iterator[bytes]:
    index = 0
    while line := stream.readline():
        # Some editors put a mark of the encoding in front.
        line = line if index else line.removeprefix(BOM_UTF8)
        if not line.strip():
            continue
        yield line + _rest_of_frame(stream, line, index)
        index += 1


def _misnamed(frame: bytes) -> tuple[str, str] | None:
    """A key of a frame that stands for one of the format's own, and that one; None if all is well.

    Where the right key is there too, the other one is a remark indeed.
    """
    header = _QUOTES.sub(b"", frame.split(b"\n", maxsplit=2)[1])
    keys = {key.decode(errors="replace") for key in _HEADER_KEY.findall(header)}
    for key in sorted(keys - {*_FORMAT_KEYS.values()}):
        meant = _FORMAT_KEYS.get(key.lower())
        if meant is not None and meant not in keys:
            return key, meant
    return None


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


def _parse_header(line: str) -> Labels:
    """What the second line of a frame says, with stresses and virials as they stand there.

    ASE wants nine numbers under these names, and puts those of a stress into an order of its own.
    """
    whole = _EMPTY.sub(lambda entry: entry[1] or "", line)
    found: Labels = key_val_str_to_dict(_MATRICES.sub(rf"\1{_OURS}\2=", whole))  # type: ignore[no-untyped-call]
    return found


def _open_frame(text: bytes, where: str) -> tuple[Any, Labels]:
    """Structure and labels of a frame."""
    header = text.split(b"\n", maxsplit=2)[1]
    if absurd := _ABSURD_COLUMNS.search(header):
        raise ValueError(f"{where}: Properties have {absurd[0]!r}... columns; {header[:200]!r}")
    try:
        stream = io.StringIO(text.decode())
        atoms: Atoms = next(read_xyz(stream, index=0, properties_parser=_parse_header))
    except KeyError as error:
        # ASE looks up nothing but symbols.
        advice = (
            " (write H: isotopes do not differ in energy)" if error.args[0] in ("D", "T") else ""
        )
        raise ValueError(f"{where}: there is no element {error}{advice}") from error
    except _ASE_ERRORS as error:
        raise ValueError(f"{where}: ASE cannot read it: {error}; {text[:200]!r}") from error
    results = {} if atoms.calc is None else atoms.calc.results
    labels = {**atoms.arrays, **atoms.info, **results}
    return atoms, {key.removeprefix(_OURS): value for key, value in labels.items()}


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Number and content of each row of an ASE database, in the order of the numbers."""
    # ASE would make a database of an empty file.
    if not path.is_file() or path.stat().st_size == 0:
        raise OSError("it is no file, or an empty one")
    _require_systems(path)
    last = "before the first row"
    try:
        for row in _select_all(path):
            last = f"after row {row.id}"
            yield f"row {row.id}", row
    except UnknownFileTypeError as error:
        raise ValueError(
            f"{path} is no ASE database: {error}; convert it with ASE, or write a reader "
            "(docs/add_a_source.md)"
        ) from error
    except _ASE_ERRORS as error:
        if path.suffix == ".db":
            # SQLite found the row, so the file is whole.
            raise ValueError(
                f"{path}: ASE cannot read the row that comes {last} ({error}): its arrays are not "
                "of double precision, or of another number of atoms; write it again with ASE"
            ) from error
        raise OSError(f"ASE cannot read it: {type(error).__name__}: {error}") from error
    except Exception as error:
        # An error of LMDB, a package that few need.
        if _IN_USE not in str(error):
            raise
        raise ValueError(
            f"{path} is open in this process already, and LMDB opens a file once; close the other "
            "database first"
        ) from error


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
            # The others stream by themselves, and would start again for every block.
            yield from database.select()
            return
        # A select of everything would hold everything.
        last = 0
        before = -1
        while before < last:
            before = last
            # One by one: a row that ASE cannot read does not hide those before it.
            for row in database.select(f"id>{last}", limit=_ROWS_AT_ONCE):
                yield row
                last = row.id


def errors_of(path: Path) -> tuple[type[Exception], ...]:
    """What a damaged file raises; databases of LMDB need a package that few others need.

    Raises:
        ValueError: If the file is one and the package is not installed.
    """
    if path.suffix != _LMDB:
        return CONTAINER_ERRORS
    try:
        backend: Any = import_module("ase_db_backends.aselmdb")
    except ImportError as error:
        raise ValueError(
            f"{path}: ASE reads {_LMDB} files with a package that is not installed ({error}); "
            "`pip install ase-db-backends`"
        ) from error
    return (*CONTAINER_ERRORS, backend.lmdb.Error)


def _open_row(row: Any, where: str) -> tuple[Any, Labels]:
    """Structure and labels of a row; a row of a database has what a structure has."""
    # Asked for a key called charge, mass, volume or symbols, a row gives what it computes itself.
    stored = vars(row)
    try:
        pairs = {key: stored[key] for key in row._keys}
        labels = {**row.data, **pairs}
    except _ASE_ERRORS as error:
        raise ValueError(f"{where}: ASE cannot read its data: {error!r}") from error
    results = {key: stored[key] for key in all_properties if key in stored}
    return row, _with_full_stress({**labels, **results})


def _images(path: Path) -> Iterator[tuple[str, Any]]:
    """Number and content of each image of an ASE trajectory."""
    try:
        with TrajectoryReader(path) as trajectory:  # type: ignore[no-untyped-call]
            for index in range(len(trajectory)):
                yield f"image {index}", trajectory[index]
    except _ASE_ERRORS as error:
        raise OSError(f"ASE cannot read it: {type(error).__name__}: {error}") from error


def _open_image(atoms: Atoms, _where: str) -> tuple[Any, Labels]:
    """Structure and labels of an image."""
    results = {} if atoms.calc is None else atoms.calc.results
    return atoms, _with_full_stress({**atoms.arrays, **atoms.info, **results})


def _with_full_stress(labels: Labels) -> Labels:
    """Labels with ASE's own stress as a matrix: its order of six is fixed, that of files is not."""
    stress = labels.get("stress")
    if stress is not None and np.shape(stress) == (6,):
        labels["stress"] = voigt_6_to_full_3x3_stress(stress)  # type: ignore[no-untyped-call]
    return labels


CONTAINERS: Final = {
    "extxyz": Container(_frames, _open_frame, (".xyz", ".extxyz")),
    "db": Container(_rows, _open_row, (".db", ".json", _LMDB)),
    "traj": Container(_images, _open_image, (".traj",)),
}
"""Formats that are read, by the name that the configuration uses."""


def format_of(file_name: str) -> str | None:
    """Format that the name of a file says, if any."""
    for ending in (".gz", ".bz2", ".xz"):
        file_name = file_name.removesuffix(ending)
    return next(
        (name for name, one in CONTAINERS.items() if file_name.lower().endswith(one.endings)), None
    )
