"""One split of one source in memory, with the targets that a model learns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import FIELDS
from mtlpar.core.structures import StructureBatch, iterate_slices
from mtlpar.store.pack import Pack
from mtlpar.store.table import OFFSET_BYTES, AtomSegments, first_bytes

FloatArray = npt.NDArray[np.float64]


class StructureStore(Protocol):
    """Random access to the structures of one split, wherever they lie.

    Its methods may be called from several threads at once.
    """

    def __len__(self) -> int: ...

    def count_atoms(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Atoms of the structures at ``indices``."""

    def label_bits(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Labels of the structures at ``indices``, as `StructureBatch.label_bits`."""

    def gather(self, indices: npt.NDArray[np.int64]) -> tuple[StructureBatch, FloatArray]:
        """Copy the structures at ``indices``, in that order, with their targets in eV/atom."""


def merge(
    parts: Sequence[tuple[StructureBatch, FloatArray]], part_of: npt.NDArray[np.integer]
) -> tuple[StructureBatch, FloatArray]:
    """Bring structures that came in parts into the order they were asked for.

    Args:
        parts: Structures and targets; those of a part are in order among themselves.
        part_of: Part that each structure came in, (K,); parts are in ascending order.
    """
    order = np.argsort(np.argsort(part_of, kind="stable"))
    batch = StructureBatch.concatenate([batch for batch, _ in parts]).take(order)
    return batch, np.concatenate([target for _, target in parts])[order]


def column_bytes(num_structures: int, num_atoms: int) -> int:
    """Memory of a `PackedDataset`."""
    rows = {"structure": num_structures, "atom": num_atoms}
    columns = sum(rows[field.level] * field.row_bytes for field in FIELDS.values())
    targets = 8 * num_structures
    return columns + targets + OFFSET_BYTES * num_structures


# Targets are computed in slices: the float64 of every atom at once would take half as much again.
_SLICE_STRUCTURES: Final = 200_000
_PIECE_STRUCTURES: Final = 16_384


class PackedDataset:
    """A pack in the memory of this process, read once in a contiguous slice.

    Attributes:
        header: What the pack says about itself.
        structures: All structures of the split.
        target_ev_per_atom: (S,) energy per atom without references, computed in float64.
    """

    def __init__(self, pack: Pack) -> None:
        """Read a pack.

        Raises:
            ValueError: If the pack is damaged.
        """
        self.header = pack.header
        self.structures: StructureBatch = pack.read()
        self.target_ev_per_atom: FloatArray = np.concatenate(
            [
                self.header.references.to_target(self.structures.slice(start, stop))
                for start, stop in iterate_slices(len(self), _SLICE_STRUCTURES)
            ]
        )
        self._label_bits = self.structures.label_bits
        self._segments = AtomSegments(
            self.structures.columns(), first_bytes(self.structures.offsets)
        )

    def __len__(self) -> int:
        return len(self.structures)

    def part(self, start: int, stop: int) -> PackedDataset:
        """Consecutive structures, as a dataset of their own."""
        part = copy.copy(self)
        part.structures = self.structures.slice(start, stop)
        part.target_ev_per_atom = self.target_ev_per_atom[start:stop]
        part._label_bits = part.structures.label_bits
        part._segments = AtomSegments(
            part.structures.columns(), first_bytes(part.structures.offsets)
        )
        return part

    def count_atoms(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Atoms of the structures at ``indices``."""
        return self.structures.num_atoms[indices]

    def label_bits(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Labels of the structures at ``indices``, as `StructureBatch.label_bits`."""
        return self._label_bits[indices]

    def gather(self, indices: npt.NDArray[np.int64]) -> tuple[StructureBatch, FloatArray]:
        """Copy the structures at ``indices``, in that order, with their targets in eV/atom."""
        columns = {
            name: getattr(self.structures, name).take(indices, axis=0)
            for name, field in FIELDS.items()
            if field.level == "structure"
        }
        batch = StructureBatch({**columns, **self._segments.take(indices)})
        return batch, self.target_ev_per_atom[indices]


class PackSlice:
    """Consecutive structures of a pack, read from it every time they are gone through."""

    def __init__(self, pack: Pack, part: slice) -> None:
        """Note which structures; nothing is read yet.

        Args:
            pack: The pack, open as long as this is used.
            part: The structures.
        """
        self.pack = pack
        self.part = part

    def __iter__(self) -> Iterator[tuple[StructureBatch, FloatArray]]:
        """Read them, some at a time and in order, with their targets in eV/atom.

        Raises:
            ValueError: If the pack is damaged.
        """
        first, last = self.part.start, self.part.stop
        for _, batch in self.pack.part(first, last, size=_PIECE_STRUCTURES):
            yield batch, self.pack.header.references.to_target(batch)
