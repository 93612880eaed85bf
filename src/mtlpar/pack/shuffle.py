"""Shuffles more structures than memory holds: sorted runs on disk, then blocks gathered from them.

The order within a split is that of hashes of the structures. A *run* holds consecutive extracted
parts, sorted by split and hash. A *block* holds all structures of a split whose hashes lie in one
of equally wide ranges: a slice of every run. Blocks in order are the whole split in order. Neither
depends on how many processes share the work, nor on the order of the raw files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import FIELDS, Field
from mtlpar.core.hashing import UInt64Array, mix64
from mtlpar.core.structures import IndexArray, StructureBatch, atom_indices, iterate_slices
from mtlpar.store.bp import BpReader

PACKED_FIELDS: Final = tuple(field for field in FIELDS.values() if field.packed)
# What tells structures apart is a column even if it holds one value.
_ALWAYS_COLUMNS: Final = frozenset({"num_atoms", "energy", "group", "structure_id"})
_MAY_BE_CONSTANT: Final = tuple(
    field
    for field in PACKED_FIELDS
    if field.level == "structure" and field.name not in _ALWAYS_COLUMNS
)

_CHUNK_ROWS: Final = 1 << 16

Constants = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Shuffle:
    """The order of all splits.

    Attributes:
        seeds: Seed of the order of each split.
        num_blocks: Blocks that each split is written in.
    """

    seeds: tuple[int, ...]
    num_blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunTask:
    """Which structures make a run.

    Attributes:
        parts: Extracted parts, in order.
        split: Position in `SPLITS` of each of their structures, or -1 to leave it out.
        shuffle: The order to sort by.
        path: Where the run goes.
    """

    parts: tuple[Path, ...]
    split: npt.NDArray[np.int8]
    shuffle: Shuffle
    path: Path


@dataclass(frozen=True, slots=True)
class RunSlice:
    """A slice of a run.

    Attributes:
        path: The run: all packed columns one after another.
        rows: Rows of the whole run, by level.
        start: First row of the slice, by level.
        stop: End of the slice, by level.
    """

    path: Path
    rows: dict[str, int]
    start: dict[str, int]
    stop: dict[str, int]


@dataclass(frozen=True, slots=True)
class Run:
    """A run on disk.

    Attributes:
        path: The run: all packed columns one after another.
        borders: By level and split, the first row of every block and the end of the last.
        constants: By split, rows of the columns that are alike in all its structures here.
    """

    path: Path
    borders: dict[str, tuple[IndexArray, ...]]
    constants: tuple[Constants, ...]

    def rows(self, level: str, split: int) -> int:
        """Rows that belong to a split."""
        border = self.borders[level][split]
        return int(border[-1] - border[0])

    def piece(self, split: int, block: int) -> RunSlice:
        """The slice that belongs to a block."""
        return RunSlice(
            self.path,
            rows={level: int(borders[-1][-1]) for level, borders in self.borders.items()},
            start={level: int(borders[split][block]) for level, borders in self.borders.items()},
            stop={level: int(borders[split][block + 1]) for level, borders in self.borders.items()},
        )


@dataclass(frozen=True, slots=True)
class BlockTask:
    """Which block to gather.

    Attributes:
        pieces: Its slice of every run.
        seed: Seed of the order of its split.
        constants: Rows of the columns that are alike in all structures of the split.
    """

    pieces: tuple[RunSlice, ...]
    seed: int
    constants: Constants


def packed_bytes(num_structures: int, num_atoms: int) -> int:
    """Bytes of all packed columns."""
    rows = {"structure": num_structures, "atom": num_atoms}
    return sum(rows[field.level] * field.row_bytes for field in PACKED_FIELDS)


def write_run(task: RunTask) -> Run:
    """Read parts, sort them by split and hash, and write them as a run.

    Raises:
        ValueError: If a part is damaged, or holds other structures than its manifest says.
    """
    batch = StructureBatch.concatenate(_read_part(path) for path in task.parts)
    if len(batch) != len(task.split):
        raise ValueError(
            f"{', '.join(map(str, task.parts))}: got {len(batch)} structures, expected "
            f"{len(task.split)} by the manifest; run mtlpar extract again"
        )
    orders: list[IndexArray] = []
    borders: list[IndexArray] = []
    constants: list[Constants] = []
    first = 0
    for split, seed in enumerate(task.shuffle.seeds):
        chosen = np.flatnonzero(task.split == split)
        keys = _keys(batch.structure_id[chosen], seed)
        by_key = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[by_key], _range_starts(task.shuffle.num_blocks[split]))
        orders.append(chosen[by_key])
        borders.append(first + np.append(starts, len(chosen)))
        constants.append(_constants(batch, chosen))
        first += len(chosen)
    order = np.concatenate(orders)
    _write_columns(task.path, batch, order)
    offsets = np.concatenate([[0], np.cumsum(batch.num_atoms[order], dtype=np.int64)])
    atom_borders = tuple(offsets[border] for border in borders)
    return Run(task.path, {"structure": tuple(borders), "atom": atom_borders}, tuple(constants))


def split_constants(runs: Sequence[Run], split: int) -> Constants:
    """Rows of the columns that are alike in all structures of a split."""
    candidates = [run.constants[split] for run in runs if run.rows("structure", split)]
    return {
        name: row
        for name, row in candidates[0].items()
        if all(name in other and other[name].tobytes() == row.tobytes() for other in candidates)
    }


def gather_block(task: BlockTask) -> StructureBatch:
    """Read one block of a split from all runs, and bring it into its order."""
    columns = _read_pieces(
        task.pieces, [field for field in PACKED_FIELDS if field.name not in task.constants]
    )
    order = np.argsort(_keys(columns["structure_id"], task.seed), kind="stable")
    offsets = np.concatenate([[0], np.cumsum(columns["num_atoms"], dtype=np.int64)])
    rows = {"structure": order, "atom": atom_indices(offsets, order)}
    for name, field in FIELDS.items():
        if name in columns:
            columns[name] = columns[name].take(rows[field.level], axis=0)
        else:
            row = task.constants.get(name, field.default)
            columns[name] = np.full((len(order), *field.shape), row, field.dtype)
    return StructureBatch(columns)


def _read_part(path: Path) -> StructureBatch:
    with BpReader(path) as reader:
        return reader.read()


def _keys(structure_id: UInt64Array, seed: int) -> UInt64Array:
    return mix64(structure_id ^ np.uint64(seed))


def _range_starts(num_blocks: int) -> UInt64Array:
    """Smallest key of each of ``num_blocks`` equally wide ranges."""
    return np.array([(block << 64) // num_blocks for block in range(num_blocks)], dtype=np.uint64)


def _constants(batch: StructureBatch, chosen: IndexArray) -> Constants:
    if len(chosen) == 0:
        return {}
    rows = {field.name: getattr(batch, field.name)[chosen] for field in _MAY_BE_CONSTANT}
    return {name: row[0] for name, row in rows.items() if _is_constant(row)}


def _is_constant(rows: npt.NDArray[Any]) -> bool:
    """Whether all rows have the same bits: 0 and -0 are not the same, NaN and NaN may be."""
    bits = rows.reshape(len(rows), -1).view(np.uint8)
    return bool((bits == bits[0]).all())


def _write_columns(path: Path, batch: StructureBatch, order: IndexArray) -> None:
    rows = {"structure": order, "atom": atom_indices(batch.offsets, order)}
    with path.open("wb") as stream:
        for field in PACKED_FIELDS:
            column = getattr(batch, field.name)
            # In pieces that stay in the cache, and in memory that is used again.
            for start, stop in iterate_slices(len(rows[field.level]), _CHUNK_ROWS):
                # Unlike ndarray.tofile, this says why it fails.
                stream.write(column.take(rows[field.level][start:stop], axis=0).data)


def _read_pieces(pieces: Sequence[RunSlice], fields: list[Field]) -> dict[str, npt.NDArray[Any]]:
    """Read slices of runs, one behind the other in each column."""
    total = {
        level: sum(piece.stop[level] - piece.start[level] for piece in pieces)
        for level in ("structure", "atom")
    }
    columns = {
        field.name: np.empty((total[field.level], *field.shape), field.dtype) for field in fields
    }
    done = {"structure": 0, "atom": 0}
    for piece in pieces:
        with piece.path.open("rb", buffering=0) as stream:
            column_start = 0
            for field in PACKED_FIELDS:
                if field.name in columns:
                    first = done[field.level]
                    last = first + piece.stop[field.level] - piece.start[field.level]
                    stream.seek(column_start + piece.start[field.level] * field.row_bytes)
                    _fill(columns[field.name][first:last], stream)
                column_start += piece.rows[field.level] * field.row_bytes
        for level in done:
            done[level] += piece.stop[level] - piece.start[level]
    return columns


def _fill(target: npt.NDArray[Any], stream: FileIO) -> None:
    if len(target) and stream.readinto(target.data.cast("B")) != target.nbytes:
        raise ValueError(f"{stream.name} ends too early; run mtlpar pack again")
