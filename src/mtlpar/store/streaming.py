"""One split of one source that stays on disk: some of its blocks are in memory at a time.

For datasets larger than memory. `StreamedDataset` reads *windows*, some blocks of a pack each, and
`ReadAhead` one after the other in a background thread. Ranks need neither each other nor MPI for
it: each reads all blocks and keeps the structures that it is going to compute, so the ranks of a
group hold a window once between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch
from mtlpar.store.dataset import StructureStore, merge
from mtlpar.store.header import BpHeader
from mtlpar.store.pack import Pack
from mtlpar.store.table import (
    OFFSET_BYTES,
    AtomSegments,
    StructureTable,
    first_bytes,
    table_bytes,
    to_columns,
)

IndexArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# The one in use, the one being read, and one that the last batches may still hold.
_WINDOWS_IN_MEMORY: Final = 3
# What a window knows of every structure of its blocks: number of atoms, row and labels.
_INDEX_BYTES: Final = 9
# What reading takes at most besides, whatever the pack: ADIOS2 and its buffers, a thread.
_READER_BYTES: Final = 20 * 2**20


class StreamedDataset:
    """A pack of which no more than some blocks are in memory.

    Attributes:
        pack: The pack, open as long as this is used.
    """

    def __init__(self, pack: Pack) -> None:
        """Take a pack without reading it."""
        self.pack = pack

    def __len__(self) -> int:
        return len(self.pack)

    def read(self, blocks: Sequence[int], wanted: IndexArray) -> Window:
        """Read some blocks and keep some of their structures.

        Args:
            blocks: Numbers of the blocks, ascending.
            wanted: Structures to keep, each once and in any order.

        Raises:
            ValueError: If the pack is damaged.
        """
        pack = self.pack
        sizes = [pack.read_block_sizes(block) for block in blocks]
        labels = [pack.read_block_labels(block) for block in blocks]
        window = Window(pack.block_borders[blocks], sizes, labels, wanted)
        for place, block in enumerate(blocks):
            window.fill(place, pack.read_block(block), pack.header.references)
        return window


class Window:
    """Structures of some blocks, in memory; a `mtlpar.store.dataset.StructureStore`.

    Structures have the numbers they have in the pack. Sizes are known of all in the blocks, rows
    only of those that were wanted.
    """

    def __init__(
        self,
        first: IndexArray,
        sizes: Sequence[npt.NDArray[np.int32]],
        labels: Sequence[npt.NDArray[np.uint8]],
        wanted: IndexArray,
    ) -> None:
        """Make room for what `fill` is to bring.

        Args:
            first: First structure of each block, ascending, (B,).
            sizes: Atoms of the structures of each block.
            labels: Their labels, as `StructureBatch.label_bits`.
            wanted: Structures to keep.
        """
        self._first = first
        self._base = np.concatenate([[0], np.cumsum([len(block) for block in sizes])])
        self._num_atoms = np.concatenate(sizes)
        self._labels = np.concatenate(labels)
        self._places = np.sort(self._place(wanted))
        self._row = np.full(len(self._num_atoms), -1, dtype=np.int32)
        self._row[self._places] = np.arange(len(self._places), dtype=np.int32)
        counts = self._num_atoms[self._places]
        self._first_atom = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        size = len(self._places), int(self._first_atom[-1])
        self._table = StructureTable(np.empty(table_bytes(*size), np.uint8), *size)
        self._segments = AtomSegments(self._table.atoms, first_bytes(self._first_atom))

    def __len__(self) -> int:
        return len(self._num_atoms)

    def fill(self, block: int, batch: StructureBatch, references: References) -> None:
        """Bring the structures of a block, by its position in the window."""
        start, stop = self._base[block : block + 2]
        low, high = np.searchsorted(self._places, [start, stop])
        kept = batch.take(self._places[low:high] - start)
        first_atom = int(self._first_atom[low])
        self._table.fill(int(low), first_atom, kept, references.to_target(kept))

    def holds(self, indices: IndexArray) -> npt.NDArray[np.bool_]:
        """Which structures can be gathered."""
        inside = self.spans(indices)
        inside[inside] = self._row[self._place(indices[inside])] >= 0
        return inside

    def spans(self, indices: IndexArray) -> npt.NDArray[np.bool_]:
        """Which structures are in the blocks."""
        block = np.searchsorted(self._first, indices, side="right") - 1
        return (block >= 0) & (self._place(indices) < self._base[block + 1])

    def count_atoms(self, indices: IndexArray) -> npt.NDArray[np.int32]:
        """Atoms of the structures at ``indices``, which are in the blocks."""
        return self._num_atoms[self._place(indices)]

    def label_bits(self, indices: IndexArray) -> npt.NDArray[np.uint8]:
        """Labels of the structures at ``indices``, which are in the blocks."""
        return self._labels[self._place(indices)]

    def gather(self, indices: IndexArray) -> tuple[StructureBatch, FloatArray]:
        """Copy the structures at ``indices``, which were wanted, in that order."""
        rows = self._row[self._place(indices)].astype(np.int64)
        return to_columns(self._table.structures.take(rows), self._segments.take(rows))

    def _place(self, indices: IndexArray) -> IndexArray:
        """Where structures are among all structures of the blocks."""
        block = np.searchsorted(self._first, indices, side="right") - 1
        places: IndexArray = self._base[block] + indices - self._first[block]
        return places


class JoinedWindows:
    """Several windows as one `mtlpar.store.dataset.StructureStore`; waits until they are read."""

    def __init__(self, windows: Sequence[Future[Window]]) -> None:
        self._windows = windows

    def __len__(self) -> int:
        return sum(len(window.result()) for window in self._windows)

    def count_atoms(self, indices: IndexArray) -> npt.NDArray[np.int32]:
        """Atoms of the structures at ``indices``."""
        counts = np.zeros(len(indices), dtype=np.int32)
        for future in self._windows:
            inside = future.result().spans(indices)
            counts[inside] = future.result().count_atoms(indices[inside])
        return counts

    def label_bits(self, indices: IndexArray) -> npt.NDArray[np.uint8]:
        """Labels of the structures at ``indices``, as `StructureBatch.label_bits`."""
        bits = np.zeros(len(indices), dtype=np.uint8)
        for future in self._windows:
            inside = future.result().spans(indices)
            bits[inside] = future.result().label_bits(indices[inside])
        return bits

    def gather(self, indices: IndexArray) -> tuple[StructureBatch, FloatArray]:
        """Copy the structures at ``indices``, in that order, with their targets in eV/atom."""
        windows = [future.result() for future in self._windows]
        if len(windows) == 1:
            return windows[0].gather(indices)
        # A structure may be in two windows, where one pass ends and the next begins.
        owner = np.argmax([window.holds(indices) for window in windows], axis=0)
        parts = [window.gather(indices[owner == number]) for number, window in enumerate(windows)]
        return merge(parts, owner)


class ReadAhead:
    """Reads windows in a background thread, the next one while one is in use."""

    def __init__(self, read: Callable[[int], Window], count: int) -> None:
        """Prepare, without reading anything yet.

        Args:
            read: Reads a window by its number; called from one thread.
            count: Number of windows.
        """
        self._read = read
        self._count = count
        self._windows: dict[int, Future[Window]] = {}
        self._given = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mtlpar-stream")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the thread, after the windows that somebody was given."""
        for number, window in self._windows.items():
            if number >= self._given:
                window.cancel()
        self._pool.shutdown()

    def get(self, numbers: range) -> StructureStore:
        """Some windows, which may still be on their way; earlier ones are forgotten."""
        if not numbers:
            return JoinedWindows(())
        for number in range(numbers.start, min(numbers.stop + 1, self._count)):
            if number not in self._windows:
                self._windows[number] = self._pool.submit(self._read, number)
        for number in [number for number in self._windows if number < numbers.start]:
            del self._windows[number]
        self._given = numbers.stop
        return JoinedWindows([self._windows[number] for number in numbers])


def streamed_bytes(header: BpHeader, *, window: int, ranks: int) -> int:
    """Memory that a rank needs at most to stream a dataset.

    Args:
        header: What the pack says about itself.
        window: Structures that are shuffled together.
        ranks: Ranks that share the dataset between them.
    """
    count, largest = header.num_structures, max(header.blocks.num_structures)
    held = _WINDOWS_IN_MEMORY * min(count, max(window, largest))
    structure_bytes = table_bytes(count, header.num_atoms) / count + OFFSET_BYTES
    # A block is in memory as it is read, and again the part of it that is kept.
    blocks = 2 * largest * structure_bytes
    return int(held * (structure_bytes / ranks + _INDEX_BYTES) + blocks) + _READER_BYTES
