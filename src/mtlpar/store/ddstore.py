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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from mtlpar.core.ragged import ragged_arange
from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch
from mtlpar.store.bp import BpReader
from mtlpar.store.rows import ATOM_ROW, STRUCTURE_ROW, Rows, fill_rows, take_atoms, to_columns

IndexArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_PIECE_STRUCTURES: Final = 65536
# Every node of a copy knows of every structure where it begins and how many atoms it has.
_INDEX_BYTES: Final = 12
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
    def of(
        cls, comm: MPI.Intracomm, *, width: int | None = None, ranks_per_node: int | None = None
    ) -> Copy:
        """Deal the ranks of a dataset into copies; all of them call this together.

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

    def free(self) -> None:
        """Free the communicators; all ranks of the copy call this together."""
        self.node.Free()
        self.ranks.Free()

    def bounds(self, count: int) -> IndexArray:
        """First of ``count`` structures that each rank reads and owns, and the end: (R + 1,)."""
        bounds: IndexArray = np.arange(self.ranks.size + 1) * count // self.ranks.size
        return bounds

    def bytes_of_rank(self, header: Mapping[str, Any]) -> int:
        """Shared memory that this rank's part of a dataset takes, from the header of the pack.

        Summed over the ranks of a node it is what the node holds; the atoms of a part are taken to
        be as many as its structures, which packs hold in random order, let expect.
        """
        count = int(header["num_structures"])
        first, last = self.bounds(count)[self.ranks.rank : self.ranks.rank + 2]
        rows: int = STRUCTURE_ROW.itemsize * count + ATOM_ROW.itemsize * int(header["num_atoms"])
        index = _INDEX_BYTES * count if self.node.rank == 0 else 0
        return int(last - first) * rows // count + index


class DistributedDataset:
    """A pack in the windows of a copy; a `mtlpar.store.dataset.StructureStore`.

    Attributes:
        num_atoms: Atoms of every structure, (S,), in memory that the node shares.
    """

    def __init__(self, path: Path, copy: Copy) -> None:
        """Read a pack, each rank its slice; all ranks of the copy call this together.

        Raises:
            ValueError: If the pack is missing, foreign or damaged, or if the copy spans nodes and
                MPI does not allow threads to communicate.
        """
        if copy.nodes > 1 and MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise ValueError(
                f"{path}: a copy of the data that spans {copy.nodes} nodes is read by background "
                "threads, but this MPI has no MPI_THREAD_MULTIPLE; let train.ranks_per_copy be the "
                "ranks of a node"
            )
        self._copy = copy
        self._windows: list[MPI.Win] = []
        self._remote: tuple[MPI.Win, MPI.Win] | None = None
        self._progress: _Progress | None = None
        with BpReader(path) as reader:
            self._bounds = copy.bounds(len(reader))
            leader = copy.node.bcast(copy.ranks.rank)
            self._first = int(self._bounds[leader])
            self._last = int(self._bounds[leader + copy.node.size])
            first_atom = reader.offsets
            part_atoms = int(first_atom[self._last] - first_atom[self._first])
            self.num_atoms: npt.NDArray[np.int32] = self._share(np.dtype(np.int32), len(reader))
            self._first_atom: IndexArray = self._share(np.dtype(np.int64), len(reader))
            self._structures: Rows = self._share(STRUCTURE_ROW, self._last - self._first)
            self._atoms: Rows = self._share(ATOM_ROW, part_atoms)
            if copy.node.rank == 0:
                self.num_atoms[:] = np.diff(first_atom)
                self._first_atom[:] = first_atom[:-1]
            self._fill(reader, first_atom)
            if copy.nodes > 1:
                self._expose(first_atom)
        self._synchronise()
        atexit.register(self.close)

    def __len__(self) -> int:
        return len(self.num_atoms)

    def count_atoms(self, indices: IndexArray) -> npt.NDArray[np.int32]:
        """Atoms of the structures at ``indices``."""
        return self.num_atoms[indices]

    def gather(self, indices: IndexArray) -> tuple[StructureBatch, FloatArray]:
        """Copy the structures at ``indices``, in that order, with their targets in eV/atom."""
        return to_columns(*self.read_rows(indices))

    def read_rows(self, indices: IndexArray) -> tuple[Rows, Rows]:
        """Copy the rows of the structures at ``indices``, in that order, and of their atoms."""
        counts = self.num_atoms[indices].astype(np.int64)
        on_node = (indices >= self._first) & (indices < self._last)
        if on_node.all():
            return self._take(indices, counts)
        structures = np.empty(len(indices), STRUCTURE_ROW)
        atoms = np.empty(int(counts.sum()), ATOM_ROW)
        begin = np.cumsum(counts) - counts
        self._get(np.flatnonzero(~on_node), indices, structures, atoms, begin)
        near = np.flatnonzero(on_node)
        rows = ragged_arange(begin[near], counts[near])
        structures[near], atoms[rows] = self._take(indices[near], counts[near])
        self._wait(indices[~on_node])
        return structures, atoms

    def close(self) -> None:
        """Free the memory; all ranks of the copy call this together, and none reads any more.

        Happens by itself when the interpreter ends.
        """
        atexit.unregister(self.close)
        self._copy.ranks.Barrier()
        if self._progress is not None:
            self._progress.stop()
        del self.num_atoms, self._first_atom, self._structures, self._atoms
        for window in (*(self._remote or ()), *self._windows):
            window.Unlock_all()
            window.Free()

    def _share(self, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        """Memory that the ranks of the node share."""
        # Windows of nothing have no address.
        size = max(1, count) * dtype.itemsize if self._copy.node.rank == 0 else 0
        window = MPI.Win.Allocate_shared(size, dtype.itemsize, comm=self._copy.node)
        window.Lock_all(MPI.MODE_NOCHECK)
        self._windows.append(window)
        memory: Any = window.Shared_query(0)[0]
        return np.frombuffer(memory, dtype, max(1, count))[:count]

    def _synchronise(self) -> None:
        """Make what all ranks wrote visible to all."""
        for window in self._windows:
            window.Sync()
        self._copy.ranks.Barrier()
        for window in self._windows:
            window.Sync()

    def _slice(self) -> tuple[int, int]:
        rank = self._copy.ranks.rank
        return int(self._bounds[rank]), int(self._bounds[rank + 1])

    def _fill(self, reader: BpReader, first_atom: IndexArray) -> None:
        references = References.from_dict(reader.attributes["references_ev"])
        begin, end = self._slice()
        for start, stop in reader.slices(_PIECE_STRUCTURES):
            low, high = max(start, begin), min(stop, end)
            if low >= high:
                continue
            # Whole pieces, because only whole blocks are compared with their checksums.
            batch = reader.read(start, stop).slice(low - start, high - start)
            first, last = first_atom[[low, high]] - first_atom[self._first]
            fill_rows(
                self._structures[low - self._first : high - self._first],
                self._atoms[first:last],
                batch,
                references.to_target(batch),
            )

    def _expose(self, first_atom: IndexArray) -> None:
        """Let the other nodes of the copy read this rank's slice."""
        begin, end = self._slice()
        first, last = first_atom[[begin, end]] - first_atom[self._first]
        parts = (self._structures[begin - self._first : end - self._first], self._atoms[first:last])
        structures, atoms = (
            MPI.Win.Create(
                part.view(np.uint8) if len(part) else None, part.itemsize, comm=self._copy.ranks
            )
            for part in parts
        )
        for window in (structures, atoms):
            window.Lock_all(MPI.MODE_NOCHECK)
        self._remote = structures, atoms
        self._progress = _Progress(self._copy.ranks)

    def _take(self, indices: IndexArray, counts: IndexArray) -> tuple[Rows, Rows]:
        """Rows that lie on this node."""
        first_atom = self._first_atom[indices]
        if len(indices):
            first_atom -= self._first_atom[self._first]
        return (
            self._structures.take(indices - self._first),
            take_atoms(self._atoms, first_atom, counts),
        )

    def _get(
        self,
        places: IndexArray,
        indices: IndexArray,
        structures: Rows,
        atoms: Rows,
        begin: IndexArray,
    ) -> None:
        """Ask other nodes for the structures at some places, in one request to each owner."""
        assert self._remote is not None
        structure_window, atom_window = self._remote
        owner_of_place = self._owners(indices[places])
        size, atom_size = structures.itemsize, atoms.itemsize
        for owner in np.unique(owner_of_place).tolist():
            here = places[owner_of_place == owner]
            there, first = indices[here], self._bounds[owner]
            _get_pieces(
                structure_window,
                owner,
                structures.view(np.uint8),
                lengths=np.full(len(here), size),
                here=here * size,
                there=(there - first) * size,
            )
            _get_pieces(
                atom_window,
                owner,
                atoms.view(np.uint8),
                lengths=self.num_atoms[there] * atom_size,
                here=begin[here] * atom_size,
                there=(self._first_atom[there] - self._first_atom[first]) * atom_size,
            )

    def _wait(self, indices: IndexArray) -> None:
        """Wait until what the owners of these structures were asked for has come."""
        assert self._remote is not None
        for owner in np.unique(self._owners(indices)).tolist():
            for window in self._remote:
                window.Flush(owner)

    def _owners(self, indices: IndexArray) -> IndexArray:
        return np.searchsorted(self._bounds, indices, side="right") - 1


def _get_pieces(
    window: MPI.Win,
    owner: int,
    memory: npt.NDArray[np.uint8],
    *,
    lengths: IndexArray,
    here: IndexArray,
    there: IndexArray,
) -> None:
    """Get many pieces of a window as one message; all numbers are bytes, one per piece."""
    sizes = lengths.tolist()
    types = [MPI.BYTE.Create_hindexed(sizes, starts.tolist()).Commit() for starts in (here, there)]
    window.Get([memory, 1, types[0]], owner, [0, 1, types[1]])
    for datatype in types:
        # MPI keeps what it needs until the message is complete.
        datatype.Free()


class _Progress:
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
