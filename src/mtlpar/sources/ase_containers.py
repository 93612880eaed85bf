"""Streams structures and what is said of them out of files that ASE reads, one record at a time.

Labels are taken as they are stored. ASE's ``get_forces`` would set the forces on constrained atoms
to zero, and those are labels too.
"""

from __future__ import annotations

import io
import json
import lzma
import re
import sqlite3
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.extxyz import key_val_str_to_dict, read_xyz
from ase.io.trajectory import TrajectoryReader
from ase.stress import voigt_6_to_full_3x3_stress

from mtlpar.core.first_bytes import HOW_TO_FETCH, LMDB, SQLITE, TRAJECTORY, unlike
from mtlpar.core.wording import counted
from mtlpar.sources import ase_databases
from mtlpar.sources.file_kinds import compression_of, kind_of_file, open_unpacked

Labels = dict[str, Any]
"""What a record says of its structure, by key: results, values and arrays of the atoms."""

# The arrays that ASE makes of it.
_STRUCTURE: Final = ("numbers", "positions")

CONTAINER_ERRORS: Final = (OSError, EOFError, lzma.LZMAError, zlib.error, sqlite3.Error)
"""What reading a damaged file raises, whatever its format."""

_MAX_FRAME_BYTES: Final = 1 << 28
_CHUNK_BYTES: Final = 1 << 20
# Columns of a property in a damaged header: ASE would make room for so many.
_ABSURD_COLUMNS: Final = re.compile(rb":[RISL]:\d{5}")
_COLUMNS: Final = re.compile(rb"""Properties\s*=\s*["']?([^\s"']+)""")
# Keys that ASE has a meaning of its own for, and what hides them from it.
_MATRICES: Final = re.compile(r"(^|\s)(stress|virial)=")
_OURS: Final = "mtlpar_"
# Entries without a value, outside of quotation marks: ASE takes the entry behind for one, with 3.29
# the energy too (findings/an_empty_note_swallows_the_energy_behind_it.sh).
_QUOTED: Final = r"""[^\s="']+=(?:"[^"]+"|'[^']+')"""
_EMPTY: Final = re.compile(rf"""({_QUOTED})|(?<!\S)[^\s="']+=(?:""|'')?(?=\s|$)""")
# A matrix as the format's own library writes it, which ASE 3.29 cuts at its blanks
# (findings/a_polarizability_of_extxyz_is_cut_into_words_by_ase.sh).
_NESTED: Final = re.compile(rf"""({_QUOTED})|(?<!\S)([^\s="']+)=(\[\s*\[[^="']*\]\s*\])(?=\s|$)""")
# Keys of the format by what people write for them, and what finds the keys of a header.
_FORMAT_KEYS: Final = {
    "lattice": "Lattice", "cell": "Lattice", "pbc": "pbc", "properties": "Properties",
}  # fmt: skip
_QUOTES: Final = re.compile(rb""""[^"]*"|'[^']*'""")
_HEADER_KEY: Final = re.compile(rb"(?<!\S)([A-Za-z]+)\s*=")
_ANY_KEY: Final = re.compile(rb"""(?<!\S)([^\s='"{\[]+)\s*=""")
# Names of columns that ASE takes for elements and for places.
_ELEMENTS: Final = {b"species", b"Z", b"symbols", b"numbers"}
_PLACES: Final = {b"pos", b"positions"}
# What ASE raises for text that is no frame.
_ASE_ERRORS: Final = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, SyntaxError, TypeError,
    ValueError,
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
    with open_unpacked(path) as stream:
        try:
            yield from frames_of(stream)
        except ValueError:
            # A damaged archive gives noise before it says that it is one.
            while compression_of(path) is not None and stream.read(_CHUNK_BYTES):
                pass
            raise


def frames_of(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Number and text of each frame of extended XYZ.

    Raises:
        OSError: If a frame is cut off.
        ValueError: If a frame is laid out otherwise.
    """
    index = 0
    while line := stream.readline():
        # Some editors put a mark of the encoding in front.
        line = line if index else line.removeprefix(BOM_UTF8)
        if not line.strip():
            continue
        yield f"frame {index}", line + _rest_of_frame(stream, line, index)
        index += 1


def _misnamed(header: bytes) -> tuple[str, str] | None:
    """A key of a second line that stands for one of the format's own, and that one, or None.

    Where the right key is there too, the other one is a remark indeed.
    """
    found = _HEADER_KEY.findall(_QUOTES.sub(b"", header))
    keys = {key.decode(errors="replace") for key in found}
    for key in sorted(keys - {*_FORMAT_KEYS.values()}):
        meant = _FORMAT_KEYS.get(key.lower())
        if meant is not None and meant not in keys:
            return key, meant
    return None


def _rest_of_frame(stream: IO[bytes], line: bytes, index: int) -> bytes:
    if not line.strip().isdigit():
        hint = f"; does frame {index - 1} have as many lines as it says?" if index else ""
        raise ValueError(f"frame {index} {unlike(line[:60], 'a number of atoms')}{hint}")
    lines, size = list[bytes](), 0
    # The number may be damaged, and then it may be of any size.
    while len(lines) <= int(line) and size < _MAX_FRAME_BYTES:
        lines.append(stream.readline())
        size += len(lines[-1])
        if not lines[-1]:
            raise EOFError(f"the file ends inside frame {index} of {counted(int(line), 'atom')}")
    if len(lines) <= int(line):
        raise OSError(f"frame {index} of {counted(int(line), 'atom')} does not end")
    return b"".join(lines)


def _parse_header(line: str) -> Labels:
    """What the second line of a frame says, with stresses and virials as they stand there.

    ASE wants nine numbers under these names, and puts those of a stress into an order of its own.
    """
    if "[" in line:
        line = _NESTED.sub(_as_ase_writes, line)
    whole = _EMPTY.sub(lambda entry: entry[1] or "", line)
    found: Labels = key_val_str_to_dict(_MATRICES.sub(rf"\1{_OURS}\2=", whole))  # type: ignore[no-untyped-call]
    pbc = np.asarray(found.get("pbc", True))
    if pbc.dtype.kind not in "bif" or not np.isin(pbc, (0, 1)).all():
        # Any other word would be true, also "no".
        raise ValueError(f"pbc is {found['pbc']!r:.60}, expected T or F for each direction")
    return found


def _as_ase_writes(entry: re.Match[str]) -> str:
    """An entry of a second line, with the matrix that it may have in ASE's notation."""
    quoted, key, matrix = entry.groups()
    if quoted:
        return entry[0]
    try:
        values = json.loads(matrix)
    except json.JSONDecodeError:
        # Words, which are no label.
        return entry[0]
    if key != "Lattice":
        return f'{key}="_JSON {matrix}"'
    # Nine numbers are one vector after the other; the vectors of a matrix are its columns.
    return f'{key}="{" ".join(map(repr, np.ravel(values, order="F").tolist()))}"'


def _decoded(frame: bytes) -> str:
    """Text of a frame; remarks in another encoding than UTF-8 cost nothing.

    Raises:
        UnicodeDecodeError: If anything else is not UTF-8.
    """
    try:
        return frame.decode()
    except UnicodeDecodeError:
        count, header, atoms = frame.split(b"\n", maxsplit=2)
        readable = _QUOTES.sub(lambda text: text[0].decode(errors="replace").encode(), header)
        return b"\n".join((count, readable, atoms)).decode()


def _open_frame(text: bytes, where: str) -> tuple[Any, Labels]:
    """Structure and labels of a frame."""
    header = text.split(b"\n", maxsplit=2)[1]
    if absurd := _ABSURD_COLUMNS.search(header):
        raise ValueError(f"{where}: Properties have {absurd[0]!r}... columns; {header[:200]!r}")
    if misnamed := _misnamed(header):
        # ASE takes it for a remark.
        raise ValueError(
            f"{where}: {misnamed[0]}= stands in its second line, expected {misnamed[1]}=: cell, "
            "periodicity or columns would be lost; rename it in the file"
        )
    columns = _COLUMNS.search(header)
    names = {*columns[1].split(b":")[::3]} if columns else set()
    if columns and not (names & _PLACES and names & _ELEMENTS):
        # ASE would put all atoms into one place, or find none.
        raise ValueError(
            f"{where}: Properties={columns[1].decode(errors='replace'):.60} have no columns of "
            "elements (species:S:1 or Z:I:1) or none of places (pos:R:3)"
        )
    counts = Counter(_ANY_KEY.findall(_QUOTES.sub(b"", header)))
    if twice := next((key.decode() for key, count in counts.items() if count > 1), None):
        # ASE takes the last one without a word.
        raise ValueError(f"{where}: {twice}= stands in its second line more than once: keep one")
    try:
        stream = io.StringIO(_decoded(text))
        atoms: Atoms = next(read_xyz(stream, index=0, properties_parser=_parse_header))
    except KeyError as error:
        # ASE looks up nothing but symbols.
        advice = (
            " (write H: isotopes do not differ in energy)" if error.args[0] in ("D", "T") else ""
        )
        raise ValueError(f"{where}: there is no element {error}{advice}") from error
    except _ASE_ERRORS as error:
        raise ValueError(f"{where}: ASE cannot read it: {error}; {text[:200]!r}") from error
    _compare_elements(text, header, atoms, where)
    return atoms, {key.removeprefix(_OURS): value for key, value in _labels_of(atoms).items()}


def _compare_elements(text: bytes, header: bytes, atoms: Atoms, where: str) -> None:
    """Refuse a frame that names elements twice, and not alike: ASE takes the numbers.

    A species that is no element, such as D or Fe1, is a name for people.
    """
    found = _COLUMNS.search(header)
    names, _, sizes = (found[1].split(b":")[start::3] if found else [] for start in range(3))
    if b"species" not in names or b"Z" not in names:
        return
    place = sum(map(int, sizes[: names.index(b"species")]))
    lines = text.split(b"\n")[2 : 2 + len(atoms)]
    symbols = [line.split()[place].decode().capitalize() for line in lines]
    for atom, (symbol, known) in enumerate(zip(symbols, atoms.symbols, strict=True)):
        if symbol != known and atomic_numbers.get(symbol, 0):
            raise ValueError(
                f"{where}: atom {atom} is {symbol} by its species and {known} by its Z; correct "
                "one of them, or leave its column out"
            )


def _open_row(row: Any, where: str) -> tuple[Any, Labels]:
    """Structure and labels of a row."""
    found, labels = ase_databases.open_row(row, where)
    return found, _with_full_stress(labels)


def _images(path: Path) -> Iterator[tuple[str, Any]]:
    """Number and content of each image of an ASE trajectory."""
    try:
        with TrajectoryReader(path) as trajectory:  # type: ignore[no-untyped-call]
            for index in range(len(trajectory)):
                yield f"image {index}", trajectory[index]
    except MemoryError as error:
        raise OSError("it announces more than memory holds") from error
    except _ASE_ERRORS as error:
        raise OSError(f"ASE cannot read it: {type(error).__name__}: {error}") from error


def _open_image(atoms: Atoms, _where: str) -> tuple[Any, Labels]:
    """Structure and labels of an image."""
    return atoms, _with_full_stress(_labels_of(atoms))


def _labels_of(atoms: Atoms) -> Labels:
    """What somebody says of a structure, beside what the structure is: places are no forces."""
    results = {} if atoms.calc is None else atoms.calc.results
    said = {key: value for key, value in atoms.arrays.items() if key not in _STRUCTURE}
    return {**said, **atoms.info, **results}


def _with_full_stress(labels: Labels) -> Labels:
    """Labels with ASE's own stress as a matrix: its order of six is fixed, that of files is not."""
    stress = labels.get("stress")
    if stress is not None and np.shape(stress) == (6,):
        labels["stress"] = voigt_6_to_full_3x3_stress(stress)  # type: ignore[no-untyped-call]
    return labels


CONTAINERS: Final = {
    "extxyz": Container(_frames, _open_frame, (".xyz", ".extxyz")),
    "db": Container(ase_databases.rows, _open_row, ase_databases.ENDINGS),
    "traj": Container(_images, _open_image, (".traj",)),
}
"""Formats that are read, by the name that the configuration uses."""


_OF_KIND: Final = {SQLITE: "db", LMDB: "db", TRAJECTORY: "traj"}
# What else than text a file must be by the end of its name.
_KIND_OF_ENDING: Final = {".db": SQLITE, ".aselmdb": LMDB, ".traj": TRAJECTORY}


def container_of(path: Path, stated: str | None = None) -> Container:
    """How a file is read: as what its first bytes say, or else as the user or its name says.

    Args:
        path: The file.
        stated: The format that the user says it is in.

    Raises:
        ValueError: If nothing reads it; the message says what it is.
    """
    kind = kind_of_file(path)
    compression = compression_of(path)
    readable = ", ".join(f"{' '.join(c.endings)} ({one})" for one, c in CONTAINERS.items())
    if kind is not None and kind not in _OF_KIND:
        convert = "convert or unpack it, or write a reader (docs/add_a_source.md)"
        advice = HOW_TO_FETCH.get(kind, convert)
        raise ValueError(f"{path} is {kind}; expected {readable}; {advice}")
    # Databases of ASE may be text, so what the user says of text counts.
    chosen = (stated or format_of(path.name)) if kind is None else _OF_KIND[kind]
    if chosen is None:
        raise ValueError(
            f"{path}: its name does not show its format; name it by what it is, or state "
            f"custom_sources.*.format where it is a source; expected {readable}"
        )
    if compression is not None and chosen != "extxyz":
        raise ValueError(f"{path} is {kind or 'text'} in {compression}; unpack it")
    expected = TRAJECTORY if chosen == "traj" else _KIND_OF_ENDING.get(path.suffix)
    if kind is None and chosen != "extxyz" and expected is not None:
        with path.open("rb") as stream:
            raise ValueError(f"{path} {unlike(stream.read(40), expected)}")
    return CONTAINERS[chosen]


def errors_of(path: Path) -> tuple[type[Exception], ...]:
    """What a damaged file raises.

    Raises:
        ValueError: If it takes a package to read it that is not installed.
    """
    of_lmdb = ase_databases.errors_of_lmdb(path) if kind_of_file(path) == LMDB else ()
    return (*CONTAINER_ERRORS, *of_lmdb)


def format_of(file_name: str) -> str | None:
    """Format that the name of a file says, if any."""
    for ending in (".gz", ".bz2", ".xz"):
        file_name = file_name.removesuffix(ending)
    return next(
        (name for name, one in CONTAINERS.items() if file_name.lower().endswith(one.endings)), None
    )
