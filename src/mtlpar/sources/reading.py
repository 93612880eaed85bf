"""What readers share: naming damage, checking arrays, collecting records into blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.structures import StructureBatch
from mtlpar.core.system_errors import is_of_the_system
from mtlpar.core.wording import counted
from mtlpar.sources.base import DAMAGED_RECORD, RawBlock
from mtlpar.sources.file_kinds import DOWNLOAD_AGAIN, no_file

BLOCK_STRUCTURES: Final = 4096
"""Rows that a reader collects, or cuts from a large array, before it yields them."""

FloatArray = npt.NDArray[np.float64]


@dataclass(slots=True)
class Progress:
    """How far a reader has come, for messages about damage.

    Attributes:
        path: The raw file.
        rows: Rows read so far.
        last: Key of the last row or group that was begun.
    """

    path: Path
    rows: int = 0
    last: str = "none"

    def where(self) -> str:
        """The place in the file that is being read."""
        return f"{self.path}, key {self.last}"

    def damage(self, error: Exception) -> str:
        """What a container's own error means, for people.

        Raises:
            OSError: The error itself, if the system is at fault and not the file.
        """
        if isinstance(error, OSError) and is_of_the_system(error):
            error.filename = error.filename or str(self.path)
            raise error
        if not self.path.is_file():
            return f"{self.path} {no_file(self.path)}; {DOWNLOAD_AGAIN}"
        # Parsers draw pictures of the place over several lines.
        reason = " ".join(str(error).split())
        return (
            f"{self.path} is damaged or cut off: {type(error).__name__}: {reason}. Of it "
            f"{counted(self.rows, 'structure')} could be read, the last key begun was {self.last}. "
            "Remove the file and run mtlpar download again, or set extract.on_error to skip"
        )

    def named(self, error: ValueError) -> str:
        """What an error says, with the place in front if it does not name the file itself."""
        text = str(error)
        return text if str(self.path) in text else f"{self.where()}: {text}"


@contextmanager
def damage_named(progress: Progress, *errors: type[Exception]) -> Iterator[None]:
    """Turn a container's own errors into one that names the file and what was read of it.

    Raises:
        ValueError: In place of any of ``errors``, or of a ValueError without the file's name.
        OSError: If the system is at fault, for instance by permissions.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(progress.named(error)) from error
    except errors as error:
        raise ValueError(progress.damage(error)) from error


@dataclass(frozen=True, slots=True)
class Damage:
    """Records that stand in the file but cannot be parsed.

    Attributes:
        message: What is wrong, and where.
        rows: How many there are.
    """

    message: str
    rows: int


@dataclass(frozen=True, slots=True)
class Parsed:
    """Records that are parsed already.

    Attributes:
        last: Key of the last one.
        batch: All of them.
    """

    last: str
    batch: StructureBatch


Columns = dict[str, Any]
"""One structure, as keyword arguments of `StructureBatch.from_labels`: a row of each column."""


def collect_records(
    progress: Progress,
    records: Iterable[tuple[str, Any] | Damage | Parsed],
    parse: Callable[[Any, str], Columns | str],
    *errors: type[Exception],
) -> Iterator[RawBlock]:
    """Turn the records of a file into blocks, with every record kept or counted.

    Args:
        progress: Where the file is read; kept up to date here.
        records: Key and content of each record, or what has become of some.
        parse: Turns the content of a record and its place into columns, or into the reason why it
            cannot be used; raises ValueError for a damaged record.
        *errors: What the container raises when it is damaged itself.

    Raises:
        ValueError: If the container cannot be read on; everything before it was yielded.
    """
    block = BlockBuilder()
    failure: Exception | None = None
    try:
        for record in records:
            if isinstance(record, Damage):
                block.drop(DAMAGED_RECORD, record.rows, damage=record.message)
                progress.rows += record.rows
                continue
            if isinstance(record, Parsed):
                progress.last = record.last
                progress.rows += len(record.batch)
                yield from block.fill(record.batch)
                continue
            progress.last, content = record
            try:
                columns = parse(content, progress.where())
            except ValueError as error:
                block.drop(DAMAGED_RECORD, damage=progress.named(error))
            except errors as error:
                block.drop(DAMAGED_RECORD, damage=progress.damage(error))
            else:
                if isinstance(columns, str):
                    block.drop(columns)
                else:
                    block.add(columns)
            progress.rows += 1
            if block.full:
                yield block.take()
    except ValueError as error:
        failure = error
    except errors as error:
        failure = error
    if block.begun:
        yield block.take()
    if failure is not None:
        with damage_named(progress, *errors):
            raise failure


def collect_groups(
    progress: Progress,
    keys: Iterable[str],
    read_group: Callable[[str, str], Iterator[RawBlock]],
    count_rows: Callable[[str], int],
    *errors: type[Exception],
) -> Iterator[RawBlock]:
    """Stream groups that hold many rows each; what is left of a damaged one is counted.

    Args:
        progress: Where the file is read; kept up to date here.
        keys: The groups.
        read_group: Streams a group, given its key and its place.
        count_rows: Rows that a group announces; 0 if it does not say.
        *errors: What the container raises when it is damaged.
    """
    for key in keys:
        progress.last = key
        before = progress.rows
        try:
            for block in read_group(key, progress.where()):
                progress.rows += block.rows
                yield block
        except ValueError as error:
            yield _rest_of_group(progress, before + count_rows(key), progress.named(error))
        except errors as error:
            yield _rest_of_group(progress, before + count_rows(key), progress.damage(error))


def _rest_of_group(progress: Progress, stop: int, damage: str) -> RawBlock:
    lost = max(0, stop - progress.rows)
    progress.rows += lost
    dropped = Counter({DAMAGED_RECORD: lost} if lost else {})
    return RawBlock(StructureBatch.concatenate([]), dropped, damage)


def require(mapping: Any, key: str, where: str) -> Any:
    """Return ``mapping[key]``.

    Raises:
        ValueError: If this is not a mapping or lacks the key.
    """
    if not isinstance(mapping, dict):
        raise ValueError(f"{where}: expected an object with {key!r}, got {mapping!r:.80}")
    if key not in mapping:
        raise ValueError(f"{where}: {key!r} is missing, got {', '.join(mapping) or 'no keys'}")
    return mapping[key]


def as_floats(values: Any, shape: tuple[int, ...], *, name: str, where: str) -> FloatArray:
    """Convert nested lists to an array of a known shape; None becomes NaN.

    Raises:
        ValueError: If the values are not numbers or have another shape.
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiuO":
            raise ValueError(f"got {values!r:.80}")
        array = array.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{where}: {name!r} is not an array of numbers of shape {shape}: {error}"
        ) from error
    if array.shape != shape:
        raise ValueError(f"{where}: {name!r} has shape {array.shape}, expected {shape}")
    return array


def as_atomic_numbers(values: npt.NDArray[Any], *, where: str) -> npt.NDArray[np.uint8]:
    """Convert atomic numbers to their dtype, refusing what would wrap around or be cut.

    Raises:
        ValueError: If a number does not fit.
    """
    in_range = not values.size or 0 <= values.min() <= values.max() < 256
    if not in_range or (values.dtype.kind not in "iu" and (values % 1).any()):
        raise ValueError(
            f"{where}: atomic numbers are {values.dtype} {values.ravel()[:8]}, expected integers "
            "from 1 to 118"
        )
    return values.astype(np.uint8)


def reduced_formula(atomic_numbers: Iterable[int]) -> str:
    """Name a composition, the same for all its polymorphs and cell sizes, e.g. ``8:3-26:2``."""
    counts = Counter(atomic_numbers)
    divisor = gcd(*counts.values())
    return "-".join(f"{number}:{counts[number] // divisor}" for number in sorted(counts))


class BlockBuilder:
    """Collects records that a file holds one by one into blocks of columns."""

    def __init__(self) -> None:
        self._batches: list[StructureBatch] = []
        self._single: list[Columns] = []
        self._kept = 0
        self._dropped: Counter[str] = Counter()
        self._damage: str | None = None

    @property
    def full(self) -> bool:
        """Whether it is time to `take` a block."""
        return self.rows >= BLOCK_STRUCTURES

    @property
    def begun(self) -> bool:
        """Whether there is anything to `take`."""
        return self.rows > 0 or self._damage is not None

    @property
    def rows(self) -> int:
        """Rows since the last block."""
        return self._kept + self._dropped.total()

    def add(self, columns: Columns) -> None:
        """Add a structure; every call must give the same columns."""
        self._single.append(columns)
        self._kept += 1

    def fill(self, batch: StructureBatch) -> Iterator[RawBlock]:
        """Add a batch, and yield the blocks that this fills."""
        self._join_single()
        start = 0
        while start < len(batch):
            stop = min(len(batch), start + max(1, BLOCK_STRUCTURES - self.rows))
            self._batches.append(batch.slice(start, stop))
            self._kept += stop - start
            start = stop
            if self.full:
                yield self.take()

    def drop(self, reason: str, rows: int = 1, *, damage: str | None = None) -> None:
        """Count rows that cannot be used, and remember the first damage."""
        if rows:
            self._dropped[reason] += rows
        self._damage = self._damage or damage

    def take(self) -> RawBlock:
        """Return what was collected and start the next block."""
        self._join_single()
        block = RawBlock(StructureBatch.concatenate(self._batches), self._dropped, self._damage)
        self._batches, self._kept = [], 0
        self._dropped, self._damage = Counter(), None
        return block

    def _join_single(self) -> None:
        if not self._single:
            return
        columns = {name: [row[name] for row in self._single] for name in self._single[0]}
        columns["num_atoms"] = [len(numbers) for numbers in columns["atomic_numbers"]]
        joined = {
            name: np.concatenate(columns.pop(name))
            for name in ("atomic_numbers", "positions", "forces")
        }
        hashes = {
            name: np.array(columns.pop(name), np.uint64)
            for name in ("group", "identity")
            if name in columns
        }
        self._batches.append(StructureBatch.from_labels(**joined, **columns, **hashes))
        self._single = []
