"""What readers share: naming damage, checking arrays, collecting records into blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.structures import StructureBatch
from mtlpar.sources.base import RawBlock

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


@contextmanager
def damage_named(progress: Progress, *errors: type[Exception]) -> Iterator[None]:
    """Turn a container's own errors into one that names the file and what was read of it.

    Raises:
        ValueError: In place of any of ``errors``.
    """
    try:
        yield
    except errors as error:
        # Parsers draw pictures of the place over several lines.
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{progress.path} is damaged or cut off: {type(error).__name__}: {reason}. "
            f"{progress.rows} structures were read, the last key begun was {progress.last}. "
            "Remove the file and run the download stage again"
        ) from error


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
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: {name!r} is not an array of numbers of shape {shape}: {error}"
        ) from error
    if array.shape != shape:
        raise ValueError(f"{where}: {name!r} has shape {array.shape}, expected {shape}")
    return array


def as_atomic_numbers(values: npt.NDArray[Any], *, where: str) -> npt.NDArray[np.uint8]:
    """Convert atomic numbers to their dtype, refusing what would wrap around.

    Raises:
        ValueError: If a number does not fit.
    """
    if values.dtype.kind not in "iu" or (
        values.size and not 0 <= values.min() <= values.max() < 256
    ):
        raise ValueError(
            f"{where}: atomic numbers are {values.dtype} {values.ravel()[:8]}, expected integers "
            "from 1 to 118"
        )
    return values.astype(np.uint8)


class BlockBuilder:
    """Collects records that a file holds one by one into blocks of columns."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {}
        self._dropped: Counter[str] = Counter()
        self._kept = 0

    @property
    def full(self) -> bool:
        """Whether it is time to `take` a block."""
        return self.rows >= BLOCK_STRUCTURES

    @property
    def rows(self) -> int:
        """Rows since the last block."""
        return self._kept + sum(self._dropped.values())

    def add(
        self,
        *,
        atomic_numbers: npt.NDArray[np.uint8],
        positions: FloatArray,
        energy: float,
        forces: FloatArray,
        group: int,
        **optional: npt.ArrayLike,
    ) -> None:
        """Add a structure of N atoms.

        Args:
            atomic_numbers: (N,).
            positions: Å, (N, 3).
            energy: Total energy in eV.
            forces: eV/Å, (N, 3).
            group: Hash of what must not be split.
            **optional: One row of other fields; the same ones in every call.
        """
        row = {
            "num_atoms": len(atomic_numbers),
            "atomic_numbers": atomic_numbers,
            "positions": positions,
            "energy": energy,
            "forces": forces,
            "group": group,
            **optional,
        }
        for name, value in row.items():
            self._columns.setdefault(name, []).append(value)
        self._kept += 1

    def drop(self, reason: str) -> None:
        """Count a row that cannot be used."""
        self._dropped[reason] += 1

    def take(self) -> RawBlock:
        """Return what was collected and start the next block."""
        columns = self._columns
        if self._kept:
            for name in ("atomic_numbers", "positions", "forces"):
                columns[name] = np.concatenate(columns[name])  # type: ignore[assignment]
            columns["group"] = np.array(columns["group"], np.uint64)  # type: ignore[assignment]
            batch = StructureBatch.from_labels(**columns)
        else:
            batch = StructureBatch.concatenate([])
        block = RawBlock(batch, self._dropped)
        self._columns, self._dropped, self._kept = {}, Counter(), 0
        return block
