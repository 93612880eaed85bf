"""Transition1x: one HDF5 file, one group of arrays per reaction path.

The file repeats itself twice. ``data`` holds the reactions of ``train``, ``val`` and ``test``
again, and ``reactant`` and ``product`` of a reaction repeat the ends of the first band of its path,
so a reader that takes everything counts each reaction twice and two frames of it three times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import SPLITS
from mtlpar.core.hashing import name_hash
from mtlpar.core.structures import StructureBatch
from mtlpar.sources.base import Piece, RawBlock, Source
from mtlpar.sources.hdf5 import (
    HDF5_ERRORS,
    announced_rows,
    even_pieces,
    float_array,
    names,
    open_file,
    read_groups,
)
from mtlpar.sources.reading import (
    FloatArray,
    Progress,
    as_atomic_numbers,
    damage_named,
)
from mtlpar.sources.settings import SourceSettings

_ENERGY: Final = "wB97x_6-31G(d).energy"
_FORCES: Final = "wB97x_6-31G(d).forces"
_END_POINTS: Final = {
    "reactant": "repeated_endpoint",
    "product": "repeated_endpoint",
    "transition_state": "repeated_transition_state",
}


@dataclass(frozen=True, slots=True)
class _Frames:
    """F frames of the same N atoms: (N,), Å (F, N, 3), eV (F,), eV/Å (F, N, 3)."""

    atomic_numbers: npt.NDArray[np.uint8]
    positions: FloatArray
    energy: FloatArray
    forces: FloatArray


def read(path: Path, _settings: SourceSettings, piece: Piece | None = None) -> Iterator[RawBlock]:
    """Stream ``Transition1x.h5``, or some reactions of it, one reaction at a time.

    Rows are the frames of the paths and the records of reactant, product and transition state. Such
    a record is dropped as ``repeated_endpoint`` or ``repeated_transition_state`` if the path holds
    its very geometry, and kept otherwise.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    return read_groups(path, piece, partial(_reactions, path=path), _read_reaction, _count_rows)


@contextmanager
def divide(path: Path, piece_bytes: int) -> Iterator[list[Piece]]:
    """Cut the file between reactions."""
    with damage_named(Progress(path), *HDF5_ERRORS), open_file(path) as file:
        pieces = even_pieces(len(_reactions(file, path)), path.stat().st_size, piece_bytes)
    yield pieces


def _reactions(file: h5py.File, path: Path) -> list[str]:
    """Keys of the form ``split/formula/reaction``, in the order of the file."""
    keys = []
    for split in _groups_to_read(file, path):
        for formula in names(file[split], where=f"{path}, key {split}"):
            key = f"{split}/{formula}"
            try:
                keys += [f"{key}/{reaction}" for reaction in _members(file, key, str(path))]
            except (ValueError, *HDF5_ERRORS):
                # Reading it will fail in the same way, and say so in its place.
                keys.append(key)
    return keys


def _members(file: h5py.File, key: str, path: str) -> list[str]:
    return names(file[key], where=f"{path}, key {key}")


def _count_rows(file: h5py.File, reaction: str) -> int:
    records = (reaction, *(f"{reaction}/{end}" for end in _END_POINTS))
    return announced_rows(file, records, "positions", _ENERGY)


def _groups_to_read(file: Any, path: Path) -> list[str]:
    splits = [split for split in SPLITS if split in file]
    if len(splits) == len(SPLITS) or (splits and "data" not in file):
        return splits
    if splits:
        raise ValueError(
            f"{path} has 'data' and {splits}, but not all of {SPLITS}: reactions would be read "
            "twice or not at all; get the released file, which has all of them"
        )
    if "data" in file:
        return ["data"]
    raise ValueError(
        f"{path} has the top-level groups {names(file, where=str(path))[:20]}, expected "
        f"{', '.join(SPLITS)} or data"
    )


def _read_reaction(file: h5py.File, key: str, where: str) -> Iterator[RawBlock]:
    if key.count("/") < 2:
        _members(file, key, file.filename)
    split, formula, reaction = key.split("/", 2)
    group = h5py.h5g.open(file.id, key.encode())
    _refuse_unknown_records(group, where=where)
    path = _read_frames(group, where=where)
    dropped: Counter[str] = Counter()
    parts = [path]
    for name, reason in _END_POINTS.items():
        if name.encode() not in group:
            continue
        record = _read_frames(h5py.h5g.open(group, name.encode()), where=f"{where}/{name}")
        if _is_on_path(record, path):
            dropped[reason] += len(record.energy)
        else:
            parts.append(record)
    rows = [len(part.energy) for part in parts]
    total = sum(rows)
    batch = StructureBatch.from_labels(
        num_atoms=np.repeat([len(part.atomic_numbers) for part in parts], rows),
        atomic_numbers=np.concatenate(
            [np.tile(part.atomic_numbers, len(part.energy)) for part in parts]
        ),
        positions=np.concatenate([part.positions.reshape(-1, 3) for part in parts]),
        energy=np.concatenate([part.energy for part in parts]),
        forces=np.concatenate([part.forces.reshape(-1, 3) for part in parts]),
        group=np.full(total, name_hash(SOURCE.name, formula, reaction), np.uint64),
        spin=np.ones(total, np.int8),
        official_split=np.full(total, SPLITS.index(split) if split in SPLITS else -1, np.int8),
    )
    yield RawBlock(batch, dropped)


def _refuse_unknown_records(reaction: h5py.h5g.GroupID, *, where: str) -> None:
    """A record under another name, a damaged one perhaps, would be rows that nobody counts."""
    for name in reaction:
        known = name.decode(errors="backslashreplace") in _END_POINTS
        if not known and h5py.h5g.get_objinfo(reaction, name).type == h5py.h5g.GROUP:
            raise ValueError(
                f"{where}: there is a group {name!r}, expected none but {', '.join(_END_POINTS)}"
            )


def _read_frames(group: h5py.h5g.GroupID, *, where: str) -> _Frames:
    atomic_numbers = float_array(group, "atomic_numbers", (None,), where=where)
    size = len(atomic_numbers)
    positions = float_array(group, "positions", (None, size, 3), where=where)
    frames = len(positions)
    # A single frame may have its energy as a scalar.
    scalar = frames == 1 and getattr(h5py.Group(group).get(_ENERGY), "shape", None) == ()
    energy = float_array(group, _ENERGY, () if scalar else (frames,), where=where)
    return _Frames(
        atomic_numbers=as_atomic_numbers(atomic_numbers, where=where),
        positions=positions,
        energy=np.ravel(energy),
        forces=float_array(group, _FORCES, (frames, size, 3), where=where),
    )


def _is_on_path(record: _Frames, path: _Frames) -> bool:
    """Whether every frame of the record has exactly the geometry of one on the path."""
    if not np.array_equal(record.atomic_numbers, path.atomic_numbers):
        return False
    return all(_holds_frame(path.positions, frame) for frame in record.positions)


def _holds_frame(frames: FloatArray, wanted: FloatArray) -> bool:
    """Whether one of the frames (F, N, 3) is the wanted one (N, 3), in float32 as it is stored."""
    first = frames[:, 0].astype(np.float32) == wanted[0].astype(np.float32)
    candidates = frames[first.all(axis=1)].astype(np.float32)
    return bool((candidates == wanted.astype(np.float32)).all(axis=(1, 2)).any())


SOURCE: Final = Source(
    name="transition1x",
    title="Transition1x",
    data_files=("Transition1x.h5",),
    level_of_theory="wB97X/6-31G(d)",
    read=read,
    divide=divide,
)
