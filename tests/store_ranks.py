"""What every rank of `unit/store/test_ddstore.py` runs, with a pack and a folder as arguments.

Opens a pack in several kinds of copies and compares all of it with `PackedDataset`, bit by bit.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from mpi4py import MPI

from mtlpar.core.fields import FIELDS
from mtlpar.store.dataset import PackedDataset, StructureStore
from mtlpar.store.ddstore import Copy, DistributedDataset
from mtlpar.store.pack import Pack

WORLD = MPI.COMM_WORLD


def assert_same(store: StructureStore, expected: PackedDataset, indices: np.ndarray) -> None:
    """Compare one request."""
    got, target = store.gather(indices)
    reference, reference_target = expected.gather(indices)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(got, name), getattr(reference, name), name)
    np.testing.assert_array_equal(target, reference_target)


def check_everything(store: StructureStore, expected: PackedDataset) -> None:
    """All structures in requests of every kind, from several threads at once."""
    count = len(expected)
    assert len(store) == count
    everything = np.arange(count)
    np.testing.assert_array_equal(store.count_atoms(everything), expected.structures.num_atoms)
    rng = np.random.default_rng(WORLD.rank)
    requests = [rng.permutation(count) for _ in range(4)]
    requests += [np.array([index]) for index in range(count)]
    requests += [np.zeros(0, np.int64), np.array([0, 0, count - 1, 0])]
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(assert_same, store, expected, each) for each in requests]:
            done.result()


def check_passive(store: StructureStore, expected: PackedDataset, flag: Path) -> None:
    """Rank 0 reads everything while the others wait for it without ever calling MPI."""
    if WORLD.rank == 0:
        check_everything(store, expected)
        flag.touch()
    while not flag.exists():
        time.sleep(0.01)


def main(pack: Path, folder: Path) -> None:
    """Try copies of one rank, of some and of all, on one node and on several."""
    expected = PackedDataset(Pack.open(pack))
    kinds = [(None, None), (1, None), (2, None), (WORLD.size, None), (WORLD.size, 1)]
    if WORLD.size > 3:
        kinds += [(WORLD.size, 2), (2, 1), (None, 2), (3, 2)]
    for width, ranks_per_node in kinds:
        copy = Copy.of(WORLD, width=width, ranks_per_node=ranks_per_node)
        if width is not None:
            copies = max(1, WORLD.size // width)
            assert width <= copy.ranks.size < 2 * width or copies == 1
        assert copy.nodes == 1 or width is not None
        store = DistributedDataset(Pack.open(pack), copy)
        check_everything(store, expected)
        check_passive(store, expected, folder / f"{width}-{ranks_per_node}")
        store.close()
        copy.free()


def check_memory(pack: Path) -> None:
    """What a copy takes is known beforehand."""
    header = Pack.open(pack).header
    copy = Copy.of(WORLD, width=WORLD.size)
    needed = copy.node.allreduce(copy.bytes_of_rank(header))
    rows = (120 + 16) * header.num_structures + 25 * header.num_atoms
    index = 13 * header.num_structures
    assert rows + index - WORLD.size <= needed <= rows + index, needed
    copy.free()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    check_memory(Path(sys.argv[1]))
    sys.stdout.write(f"rank {WORLD.rank} saw everything\n")
