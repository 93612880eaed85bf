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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import compress, pairwise
from math import prod
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from mtlpar.core.first_bytes import HDF5, XZ
from mtlpar.core.hashing import name_hash
from mtlpar.core.structures import StructureBatch
from mtlpar.sources.base import Piece, RawBlock, Source
from mtlpar.sources.file_kinds import require_kind
from mtlpar.sources.hdf5 import HDF5_ERRORS, chosen, even_pieces, float_array, names, open_file
from mtlpar.sources.hdf5_alike import AlikeGroups
from mtlpar.sources.reading import (
    Columns,
    Damage,
    Parsed,
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
# Atomic numbers, positions, and the two consistent pairs of energy and forces.
_DISPERSION_KEYS: Final = ("atNUM", "atXYZ", "ePBE0+MBD", "totFOR")
_PBE0_KEYS: Final = ("atNUM", "atXYZ", "ePBE0", "pbe0FOR")
_AT_ONCE: Final = 1024
_SINGLET: Final = 1


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is read of a file.

    Attributes:
        duplicates: Equilibria that are left out, with what is displaced from them.
        keys: Datasets of each other conformation: atomic numbers, positions, energy, forces.
    """

    duplicates: frozenset[str]
    keys: tuple[str, str, str, str]

    def takes(self, name: str) -> bool:
        """Whether this is a conformation, and not left out."""
        match = _CONFORMATION.fullmatch(name)
        return match is not None and match[1] not in self.duplicates


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
    parts = _Parts(duplicates, _DISPERSION_KEYS if settings.qm7x_dispersion else _PBE0_KEYS)
    progress = Progress(path)
    records = _records(progress, piece, parts)
    yield from collect_records(progress, records, partial(_parse, parts), *_ERRORS)


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
            f"{path} is missing; QM7-X cannot be read without its list of duplicates: run "
            "mtlpar download"
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


def _records(
    progress: Progress, piece: Piece, parts: _Parts
) -> Iterator[tuple[str, _Record] | Damage | Parsed]:
    assert piece.unpacked is not None
    with open_file(piece.unpacked, to_end=piece.start == 0) as file:
        groups = AlikeGroups(file, piece.unpacked)
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
                for start in range(0, len(conformations), _AT_ONCE):
                    some = conformations[start : start + _AT_ONCE]
                    yield from _conformations(groups, molecule, group.id, some, parts)


def _conformations(
    groups: AlikeGroups, molecule: str, group: h5py.h5g.GroupID, some: list[str], parts: _Parts
) -> Iterator[tuple[str, _Record] | Parsed]:
    """Conformations of a molecule in their order, those that are alike as batches."""
    key = name_hash(SOURCE.name, molecule)
    is_read = np.array([parts.takes(name) for name in some])
    alike, numbers = groups.read(group, [*compress(some, is_read)], parts.keys)
    usable, batch = _batch([*numbers.values()], key)
    alike[alike] = usable
    is_read[is_read] = alike
    done = 0
    cuts = np.flatnonzero(np.diff(is_read)) + 1
    for start, stop in pairwise([0, *cuts.tolist(), len(some)]):
        if is_read[start]:
            run = batch.slice(done, done + stop - start)
            done += stop - start
            yield Parsed(f"{molecule}/{some[stop - 1]}", run)
        else:
            yield from ((f"{molecule}/{name}", (key, group, name)) for name in some[start:stop])


def _batch(
    arrays: Sequence[npt.NDArray[Any]], molecule: int
) -> tuple[npt.NDArray[np.bool_], StructureBatch]:
    """Which of N conformations need no second look, (N,), and these.

    Args:
        arrays: Atomic numbers, positions, energies and forces as they are stored, (N, ...) each; or
            none of them.
        molecule: Hash of the molecule.
    """
    count = len(arrays[0]) if arrays else 0
    size = prod(arrays[0].shape[1:]) if arrays else 0
    shapes = [(count, size), (count, size, 3), (count, 1), (count, size, 3)]
    if [array.shape for array in arrays] != shapes:
        return np.zeros(count, np.bool_), StructureBatch.concatenate([])
    # HDF5 is silent about what does not fit, too.
    with np.errstate(invalid="ignore"):
        atomic_numbers, positions, energy, forces = (array.astype(np.float64) for array in arrays)
    is_number = (atomic_numbers >= 0) & (atomic_numbers < 256)
    usable = (is_number & (atomic_numbers == np.floor(atomic_numbers))).all(axis=1)
    kept = int(usable.sum())
    return usable, StructureBatch.from_labels(
        num_atoms=np.full(kept, size),
        atomic_numbers=atomic_numbers[usable].ravel().astype(np.uint8),
        positions=positions[usable].reshape(-1, 3),
        energy=energy[usable, 0],
        forces=forces[usable].reshape(-1, 3),
        group=np.full(kept, molecule, np.uint64),
        spin=np.full(kept, _SINGLET),
    )


def _parse(parts: _Parts, record: _Record, where: str) -> Columns | str:
    key, molecule, name = record
    match = _CONFORMATION.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{where} is not the name of a conformation, expected for instance Geom-m1-i1-c1-opt "
            "or Geom-m1-i1-c1-d50"
        )
    if match[1] in parts.duplicates:
        return "listed_duplicate"
    numbers_key, positions_key, energy_key, forces_key = parts.keys
    conformation = h5py.h5g.open(molecule, name.encode())
    atomic_numbers = float_array(conformation, numbers_key, (None,), where=where)
    size = len(atomic_numbers)
    return {
        "atomic_numbers": as_atomic_numbers(atomic_numbers, where=where),
        "positions": float_array(conformation, positions_key, (size, 3), where=where),
        "energy": float_array(conformation, energy_key, (1,), where=where)[0],
        "forces": float_array(conformation, forces_key, (size, 3), where=where),
        "group": key,
        "spin": _SINGLET,
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
