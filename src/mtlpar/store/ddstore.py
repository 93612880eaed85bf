"""One split of one source in the memory of several ranks, read by all of them.

The ranks that train on a dataset form copies of some width; each copy holds the dataset once.
Inside a node the ranks of a copy share memory (``MPI_Win_allocate_shared``) and read it directly.
Across nodes each rank gets what lies elsewhere by one-sided communication in one passive epoch.
Once the store is open there is no collective and no barrier: every rank, and every thread of it,
reads whenever it likes. One process needs none of this and reads a `PackedDataset`.
"""

from __future__ import annotations

import atexit
import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from mtlpar.core.collective import collective
from mtlpar.core.structures import StructureBatch
from mtlpar.store.dataset import merge
from mtlpar.store.header import BpHeader
from mtlpar.store.pack import Pack
from mtlpar.store.table import (
    OFFSET_BYTES,
    OFFSET_SIZES,
    AtomSegments,
    StructureTable,
    first_bytes,
    table_bytes,
    table_pieces,
    to_columns,
)

IndexArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_PIECE_STRUCTURES: Final = 65536
# Every node of a copy knows of every structure where it begins, its atoms and its labels.
_INDEX_BYTES: Final = 13
_PROGRESS_INTERVAL_S: Final = 5e-4


@dataclass(frozen=True, slots=True)
class Copy:
    """The ranks that hold a dataset once between them.

    Attributes:
        ranks: All of them, node by node.
        node: Those that share memory with this one.
        nodes: Number of nodes.
    """

    ranks: MPI.Intracomm
    node: MPI.Intracomm
    nodes: int

    @classmethod
    @collective
    def of(
        cls, comm: MPI.Intracomm, *, width: int | None = None, ranks_per_node: int | None = None
    ) -> Copy:
        """Deal the ranks of a dataset into copies.

        Args:
            comm: The ranks that train on the dataset.
            width: Ranks per copy; the last copy also takes those that are left over. None makes
                each node a copy.
            ranks_per_node: Treat every so many ranks as a node, to try on one machine what is made
                for many.
        """
        if ranks_per_node is None:
            node = comm.Split_type(MPI.COMM_TYPE_SHARED, comm.rank)
        else:
            node = comm.Split(comm.rank // ranks_per_node, comm.rank)
        # Node by node, so that what a node holds is one stretch of the dataset.
        ordered = comm.Split(0, node.allreduce(comm.rank, MPI.MIN) * comm.size + node.rank)
        if width is None:
            number = ordered.rank - node.rank
        else:
            number = min(ordered.rank // width, max(1, ordered.size // width) - 1)
        ranks = MPI.Intracomm(ordered.Split(number, ordered.rank))
        shared = MPI.Intracomm(node.Split(number, ordered.rank))
        node.Free()
        ordered.Free()
        return cls(ranks, shared, int(ranks.allreduce(int(shared.rank == 0))))

    @collective
    def free(self) -> None:
        """Free the communicators."""
        self.node.Free()
        self.ranks.Free()

    def bounds(self, count: int) -> IndexArray:
        """First of ``count`` structures that each rank reads and owns, and the end: (R + 1,)."""
        bounds: IndexArray = np.arange(self.ranks.size + 1) * count // self.ranks.size
        return bounds

    def bytes_of_rank(self, header: BpHeader) -> int:
        """Shared memory that this rank's part of a dataset takes, from the header of the pack.

        Summed over the ranks of a node it is what the node holds; the atoms of a part are taken to
        be as many as its structures, which packs hold in random order, let expect.
        """
        count = header.num_structures
        first, last = self.bounds(count)[self.ranks.rank : self.ranks.rank + 2]
        held = table_bytes(count, header.num_atoms) + OFFSET_BYTES * count
        index = _INDEX_BYTES * count if self.node.rank == 0 else 0
        return int(last - first) * held // count + index


class DistributedDataset:
    """A pack in the windows of a copy; a `mtlpar.store.dataset.StructureStore`.

    Attributes:
        num_atoms: Atoms of every structure, (S,), in memory that the node shares.
    """

    @collective
    def __init__(self, pack: Pack, copy: Copy) -> None:
        """Read a pack, each rank its slice.

        Raises:
            ValueError: If the pack is damaged, or if the copy spans nodes and MPI does not allow
                threads to communicate.
        """
        if copy.nodes > 1 and MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise ValueError(
                f"{pack.path}: a copy of the data that spans {copy.nodes} nodes is read by "
                "background threads, but this MPI has no MPI_THREAD_MULTIPLE; set "
                "train.ranks_per_copy to the ranks of a node"
            )
        self._copy = copy
        self._windows: list[MPI.Win] = []
        self._remote: MPI.Win | None = None
        self._progress: _ProgressThread | None = None
        self._divide(len(pack))
        memory = self._allocate(pack.offsets, pack.read_labels())
        self._fill(pack)
        if copy.nodes > 1:
            self._expose(memory)
        self._synchronise()
        # Arrow looks at offsets when it is given them: now all of them are there.
        self._segments = AtomSegments(self._table.atoms, self._first_byte)
        atexit.register(self.close)

    def __len__(self) -> int:
        return len(self.num_atoms)

    def count_atoms(self, indices: IndexArray) -> npt.NDArray[np.int32]:
        """Atoms of the structures at ``indices``."""
        return self.num_atoms[indices]

    def label_bits(self, indices: IndexArray) -> npt.NDArray[np.uint8]:
        """Labels of the structures at ``indices``, as `StructureBatch.label_bits`."""
        return self._labels[indices]

    def gather(self, indices: IndexArray) -> tuple[StructureBatch, FloatArray]:
        """Copy the structures at ``indices``, in that order, with their targets in eV/atom."""
        if ((indices >= self._first) & (indices < self._last)).all():
            return self._take(indices)
        owner = np.searchsorted(self._bounds, indices, side="right") - 1
        parts = {node: indices[owner == node] for node in np.unique(owner).tolist()}
        # All nodes are asked before the first one is waited for.
        tables = {
            node: self._get(node, wanted) for node, wanted in parts.items() if node != self._node
        }
        batches = []
        for node, wanted in parts.items():
            if node == self._node:
                batches.append(self._take(wanted))
            else:
                self._wait(node)
                batches.append(tables[node].to_columns())
        return merge(batches, owner)

    @collective
    def close(self) -> None:
        """Free the memory; nobody reads any more.

        Happens by itself when the interpreter ends.
        """
        atexit.unregister(self.close)
        self._copy.ranks.Barrier()
        if self._progress is not None:
            self._progress.stop()
        del self.num_atoms, self._first_atom, self._labels
        del self._table, self._segments, self._first_byte
        for window in (*([self._remote] if self._remote else ()), *self._windows):
            window.Unlock_all()
            window.Free()

    @collective
    def _divide(self, count: int) -> None:
        """Say which structures each node holds; its first rank answers for it."""
        copy = self._copy
        self._slices = copy.bounds(count)
        self._leaders = np.unique(copy.ranks.allgather(copy.node.bcast(copy.ranks.rank)))
        self._bounds = self._slices[[*self._leaders, copy.ranks.size]]
        self._node = int(np.searchsorted(self._leaders, copy.ranks.rank, side="right")) - 1
        self._first, self._last = map(int, self._bounds[self._node : self._node + 2])

    @collective
    def _allocate(
        self, first_atom: IndexArray, labels: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """Make room for what this node holds; returns the memory of its table."""
        number = np.dtype(np.int64)
        self.num_atoms: npt.NDArray[np.int32] = self._share(np.dtype(np.int32), len(first_atom) - 1)
        self._first_atom: IndexArray = self._share(number, len(first_atom))
        self._labels: npt.NDArray[np.uint8] = self._share(labels.dtype, len(labels))
        part = first_atom[self._first : self._last + 1] - first_atom[self._first]
        size = len(part) - 1, int(part[-1])
        memory = self._share(np.dtype(np.uint8), table_bytes(*size))
        self._table = StructureTable(memory, *size)
        self._first_byte = {width: self._share(number, len(part)) for width in OFFSET_SIZES}
        if self._copy.node.rank == 0:
            self.num_atoms[:] = np.diff(first_atom)
            self._first_atom[:] = first_atom
            self._labels[:] = labels
            for width, offsets in first_bytes(part).items():
                self._first_byte[width][:] = offsets
        return memory

    @collective
    def _share(self, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        """Memory that the ranks of the node share."""
        # Windows of nothing have no address.
        size = max(1, count) * dtype.itemsize if self._copy.node.rank == 0 else 0
        window = MPI.Win.Allocate_shared(size, dtype.itemsize, comm=self._copy.node)
        window.Lock_all(MPI.MODE_NOCHECK)
        self._windows.append(window)
        memory: Any = window.Shared_query(0)[0]
        return np.frombuffer(memory, dtype, max(1, count))[:count]

    @collective
    def _synchronise(self) -> None:
        """Make what all ranks wrote visible to all."""
        for window in self._windows:
            window.Sync()
        self._copy.ranks.Barrier()
        for window in self._windows:
            window.Sync()

    def _fill(self, pack: Pack) -> None:
        """Read this rank's slice into the memory of the node."""
        rank = self._copy.ranks.rank
        begin, end = map(int, self._slices[rank : rank + 2])
        references = pack.header.references
        for first, batch in pack.part(begin, end, size=_PIECE_STRUCTURES):
            first_atom = int(pack.offsets[first] - pack.offsets[self._first])
            self._table.fill(first - self._first, first_atom, batch, references.to_target(batch))

    @collective
    def _expose(self, memory: npt.NDArray[np.uint8]) -> None:
        """Let the other nodes of the copy read what this node holds."""
        mine = memory if self._copy.node.rank == 0 and len(memory) else None
        self._remote = MPI.Win.Create(mine, 1, comm=self._copy.ranks)
        self._remote.Lock_all(MPI.MODE_NOCHECK)
        self._progress = _ProgressThread(self._copy.ranks)

    def _take(self, indices: IndexArray) -> tuple[StructureBatch, FloatArray]:
        """Structures that lie on this node."""
        places = indices - self._first
        return to_columns(self._table.structures.take(places), self._segments.take(places))

    def _get(self, node: int, indices: IndexArray) -> StructureTable:
        """Ask another node for structures, in one message; what comes is complete after `_wait`."""
        assert self._remote is not None
        first, last = self._bounds[node : node + 2]
        base, end = self._first_atom[[first, last]]
        counts = self.num_atoms[indices].astype(np.int64)
        starts, lengths = table_pieces(
            int(last - first),
            int(end - base),
            structures=indices - first,
            first_atom=self._first_atom[indices] - base,
            counts=counts,
        )
        memory = np.empty(int(lengths.sum()), np.uint8)
        pieces = MPI.BYTE.Create_hindexed(lengths.tolist(), starts.tolist()).Commit()
        self._remote.Get([memory, MPI.BYTE], int(self._leaders[node]), [0, 1, pieces])
        # MPI keeps what it needs until the message is complete.
        pieces.Free()
        return StructureTable(memory, len(indices), int(counts.sum()))

    def _wait(self, node: int) -> None:
        """Wait until what a node was asked for has come."""
        assert self._remote is not None
        self._remote.Flush(int(self._leaders[node]))


class _ProgressThread:
    """Lets MPI serve the reads of others while this rank computes.

    Where the network cannot read memory by itself, a read waits until its target calls MPI. The
    target may be waiting for the reader in a collective of another library: without this thread
    both would wait for ever.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm.Dup()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mtlpar-progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_PROGRESS_INTERVAL_S):
            self._comm.Iprobe()
