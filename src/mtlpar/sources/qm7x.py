"""QM7-X: eight xz-compressed HDF5 files, one group of single numbers per conformation.

Energies and forces are read as a consistent pair: PBE0+MBD with its total forces, or PBE0 with its
own. Some equilibrium structures are listed in ``DupMols.dat`` as duplicates of others; they are
left out together with the structures displaced from them.
"""

from __future__ import annotations

import lzma
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import h5py

from mtlpar.core.hashing import name_hash
from mtlpar.sources.base import Piece, RawBlock, Source
from mtlpar.sources.file_kinds import HDF5, XZ, require_kind
from mtlpar.sources.hdf5 import HDF5_ERRORS, chosen, even_pieces, float_array, names, open_file
from mtlpar.sources.reading import (
    Columns,
    Damage,
    Progress,
    as_atomic_numbers,
    collect_records,
    damage_named,
)
from mtlpar.sources.settings import SourceSettings
from mtlpar.sources.unpacked import temporary_beside

_DUPLICATES: Final = "DupMols.dat"
_ERRORS: Final = (*HDF5_ERRORS, EOFError, lzma.LZMAError)
_CHUNK_BYTES: Final = 1 << 22
# The original README writes displaced structures as "-50", the files as "-d50".
_CONFORMATION: Final = re.compile(r"(Geom-m\d+-i\d+-c\d+)-(opt|d?\d+)")
_Record = tuple[int, h5py.h5g.GroupID, str]  # hash of the molecule, the molecule, name in it


def read(path: Path, settings: SourceSettings, piece: Piece | None = None) -> Iterator[RawBlock]:
    """Stream one of ``1000.xz`` to ``8000.xz``, or some molecules of it.

    Structures listed as duplicates are dropped as ``listed_duplicate``.

    Raises:
        ValueError: If a file is damaged or laid out otherwise, or if ``DupMols.dat`` is missing.
    """
    if piece is None:
        with divide(path, sys.maxsize) as pieces:
            for whole in pieces:
                yield from read(path, settings, whole)
        return
    duplicates = read_duplicates(path.with_name(_DUPLICATES))
    progress = Progress(path)
    parse = partial(_parse, duplicates, settings.qm7x_dispersion)
    yield from collect_records(progress, _records(progress, piece), parse, *_ERRORS)


@contextmanager
def divide(path: Path, piece_bytes: int) -> Iterator[list[Piece]]:
    """Unpack a file beside itself meanwhile, and cut it between molecules."""
    # Beside the raw file there is room for files of this size; in /tmp there often is not.
    with temporary_beside(path) as unpacked:
        with damage_named(Progress(path), *_ERRORS):
            require_kind(path, XZ)
            with lzma.open(path) as packed:
                shutil.copyfileobj(packed, unpacked, _CHUNK_BYTES)
            unpacked.flush()
            require_kind(Path(unpacked.name), HDF5, name=f"the content of {path}")
            with open_file(Path(unpacked.name)) as file:
                molecules = len(file)
        yield even_pieces(molecules, unpacked.tell(), piece_bytes, unpacked=Path(unpacked.name))


def read_duplicates(path: Path) -> frozenset[str]:
    """Read names of duplicated equilibrium structures, without ``-opt``.

    Raises:
        ValueError: If the file is missing or has a line that is no such name.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; QM7-X cannot be read without its list of duplicates: run the "
            "download stage"
        )
    duplicates = set()
    text = path.read_text(encoding="utf-8", errors="backslashreplace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _CONFORMATION.fullmatch(line.strip())
        if match is None:
            raise ValueError(
                f"{path} line {number} is {line!r}, expected for instance Geom-m1-i1-c1-opt"
            )
        duplicates.add(match[1])
    return frozenset(duplicates)


def _records(progress: Progress, piece: Piece) -> Iterator[tuple[str, _Record] | Damage]:
    assert piece.unpacked is not None
    with open_file(piece.unpacked, to_end=piece.start == 0) as file:
        for molecule in chosen(names(file, where=str(progress.path)), piece):
            progress.last = molecule
            try:
                group = file[molecule]
                conformations = names(group, where=progress.where())
            except ValueError as error:
                yield Damage(progress.named(error), 0)
            except HDF5_ERRORS as error:
                yield Damage(progress.damage(error), 0)
            else:
                key = name_hash(SOURCE.name, molecule)
                for name in conformations:
                    yield f"{molecule}/{name}", (key, group.id, name)


def _parse(
    duplicates: frozenset[str], dispersion: bool, record: _Record, where: str
) -> Columns | str:
    key, molecule, name = record
    match = _CONFORMATION.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{where} is not the name of a conformation, expected for instance Geom-m1-i1-c1-opt "
            "or Geom-m1-i1-c1-d50"
        )
    if match[1] in duplicates:
        return "listed_duplicate"
    energy_key, forces_key = ("ePBE0+MBD", "totFOR") if dispersion else ("ePBE0", "pbe0FOR")
    conformation = h5py.h5g.open(molecule, name.encode())
    atomic_numbers = float_array(conformation, "atNUM", (None,), where=where)
    size = len(atomic_numbers)
    return {
        "atomic_numbers": as_atomic_numbers(atomic_numbers, where=where),
        "positions": float_array(conformation, "atXYZ", (size, 3), where=where),
        "energy": float_array(conformation, energy_key, (1,), where=where)[0],
        "forces": float_array(conformation, forces_key, (size, 3), where=where),
        "group": key,
        "spin": 1,
    }


def _theory(settings: SourceSettings) -> str:
    return "PBE0+MBD" if settings.qm7x_dispersion else "PBE0"


SOURCE: Final = Source(
    name="qm7x",
    title="QM7-X",
    data_files=("[1-8]000.xz",),
    sidecar_files=(_DUPLICATES,),
    level_of_theory="PBE0+MBD",
    read=read,
    divide=divide,
    level_of_theory_for=_theory,
)
