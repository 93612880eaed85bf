"""Batched random reads from the store that ranks share, against the machine's memory copy rate.

Starts itself under mpiexec. Rank 0 reads requests of random structures while the others wait; the
rates count the bytes of the packed fields that arrive per second of CPU time, and both sides are
the best of several rounds in alternation. "Other nodes" are ranks of this machine that do not share
memory. Everything was read once before, as it is in the first epoch: the kernel maps pages of
shared memory when they are touched first.

A plain copy goes through memory in order; a batch of a shuffled epoch cannot. "Copy of pieces" is
what the machine reaches where it may not: records as long as the structures, equally long and
aligned, one NumPy gather by their numbers. The last table says how long pieces at random places of
shared memory would have to be to reach the target.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from loader import write_pack
from machine import describe_machine
from mpi4py import MPI
from neighbors import molecules

from mtlpar.core.fields import FIELDS
from mtlpar.parallel.launch import Geometry, launch_command
from mtlpar.store.bp import BpReader
from mtlpar.store.dataset import PackedDataset, StructureStore
from mtlpar.store.ddstore import Copy, DistributedDataset
from mtlpar.store.pack import Pack

WORLD = MPI.COMM_WORLD
REQUEST = 512
REQUESTS_PER_ROUND = 16
COPY_BYTES = 64 * 2**20
PIECES_KIB = (0.5, 2, 8, 32, 128)
SHARED_BYTES = 512 * 2**20
REQUEST_BYTES = 2 * 2**20


def payload_bytes(structures: int, atoms: int) -> int:
    """Bytes of the packed fields of some structures."""
    sizes = {"structure": 0, "atom": 0}
    for field in FIELDS.values():
        if field.packed:
            sizes[field.level] += field.row_bytes
    return sizes["structure"] * structures + sizes["atom"] * atoms


def copy_memory(source: np.ndarray, target: np.ndarray) -> int:
    """Plain copy of a large array; returns its bytes."""
    np.copyto(target, source)
    return source.nbytes


def copy_pieces(pieces: np.ndarray, request: np.ndarray) -> int:
    """Plain copy of records at random places; returns their bytes."""
    return pieces.take(request, axis=0).nbytes


def read(store: StructureStore, request: np.ndarray) -> int:
    """One random request; returns the bytes of what came."""
    batch, _ = store.gather(request)
    return payload_bytes(len(batch), batch.total_atoms)


def read_numpy(dataset: PackedDataset, request: np.ndarray) -> int:
    """The same from private columns, atom by atom."""
    batch = dataset.structures.take(request)
    dataset.target_ev_per_atom[request]
    return payload_bytes(len(batch), batch.total_atoms)


def read_bp(path: Path, request: np.ndarray) -> int:
    """One request, structure by structure from the file."""
    with BpReader(path) as reader:
        atoms = [reader.read(int(i), int(i) + 1).total_atoms for i in request]
    return payload_bytes(len(atoms), sum(atoms))


def several(one: Callable[[], int]) -> Callable[[], int]:
    """One request after the other, as the loader asks; a lone one finds all caches cold."""
    return lambda: sum(one() for _ in range(REQUESTS_PER_ROUND))


def best_rates(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """GB per second of CPU time of each way."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, run in ways.items():
            started = time.process_time()
            amount = run()
            best[name] = max(best[name], amount / (time.process_time() - started) / 1e9)
    return best


def measure(path: Path, atoms: int, rounds: int) -> None:
    """Print the rates for structures of one size."""
    rates = measure_node(path, rounds) | measure_nodes(path, rounds)
    if WORLD.rank > 0:
        return
    print(f"\nstructures of {atoms} atoms, requests of {REQUEST}")
    for name, rate in rates.items():
        print(f"  {name:<22}{rate:>8.3f} GB/s")
    own = rates["own node"]
    print(f"  ratio of own node to .bp file        {own / rates['.bp file']:.0f}x")
    print(f"  ratio of own node to private copy    {own / rates['private copy']:.2f}x")
    numpy = rates["private copy"] / rates["private, by NumPy"]
    print(f"  ratio of private copy to NumPy       {numpy:.2f}x")
    print(f"  ratio of own node to copy of pieces  {own / rates['copy of pieces']:.2f}")
    limit = rates["copy of pieces"] / rates["memory copy"]
    print(f"  ratio of pieces to memory copy       {limit:.2f}  (what random access leaves)")
    print(
        f"ratio  {own / rates['memory copy']:.2f} of own node to memory copy  (target >= 0.60)",
        flush=True,
    )


def measure_pieces(rounds: int) -> None:
    """Print what copies of pieces of shared memory reach, by their length."""
    if WORLD.rank > 0:
        return
    window = MPI.Win.Allocate_shared(SHARED_BYTES, comm=MPI.COMM_SELF)
    memory = np.frombuffer(window.Shared_query(0)[0], np.uint8)
    # Pages exist once they were written to.
    memory[:] = 1
    rng = np.random.default_rng(0)
    source = np.ones(COPY_BYTES // 8)
    target = np.empty_like(source)

    def gather(size: int) -> Callable[[], int]:
        pieces = memory.reshape(-1, size)
        taken = np.empty((REQUEST_BYTES // size, size), np.uint8)

        def one() -> int:
            request = rng.integers(0, len(pieces), len(taken))
            return pieces.take(request, axis=0, out=taken, mode="clip").nbytes

        return several(one)

    ways: dict[str, Callable[[], int]] = {"memory copy": lambda: copy_memory(source, target)}
    ways |= {f"{kib:g} KiB": gather(int(kib * 2**10)) for kib in PIECES_KIB}
    rates = best_rates(ways, rounds)
    print(f"\npieces at random places of shared memory, {REQUEST_BYTES >> 20} MiB a request")
    for name, rate in rates.items():
        print(f"  {name:<22}{rate:>8.3f} GB/s  {rate / rates['memory copy']:>5.2f} of a copy")


def measure_node(path: Path, rounds: int) -> dict[str, float]:
    """Reads of ranks that share memory, beside those that need no other rank."""
    store = DistributedDataset(Pack.open(path), Copy.of(WORLD, width=WORLD.size))
    rates = {}
    if WORLD.rank == 0:
        private = PackedDataset(Pack.open(path))
        for reader in (store, private):
            for start in range(0, len(reader), REQUEST):
                reader.gather(np.arange(start, min(start + REQUEST, len(reader))))
        requests = random_requests(store)
        record = payload_bytes(1, int(store.count_atoms(np.zeros(1, np.int64))[0]))
        pieces = np.ones((len(store), record // 8), np.uint64)
        source = np.ones(COPY_BYTES // 8)
        target = np.empty_like(source)
        rates = best_rates(
            {
                "memory copy": lambda: copy_memory(source, target),
                "copy of pieces": several(lambda: copy_pieces(pieces, next(requests))),
                "own node": several(lambda: read(store, next(requests))),
                "private copy": several(lambda: read(private, next(requests))),
                "private, by NumPy": several(lambda: read_numpy(private, next(requests))),
                ".bp file": lambda: read_bp(path, next(requests)[:8]),
            },
            rounds,
        )
    close(store)
    return rates


def measure_nodes(path: Path, rounds: int) -> dict[str, float]:
    """Reads of ranks that do not share memory."""
    store = DistributedDataset(Pack.open(path), Copy.of(WORLD, width=WORLD.size, ranks_per_node=1))
    requests = random_requests(store)
    rates = {}
    if WORLD.rank == 0:
        rates = best_rates({"other nodes": lambda: read(store, next(requests))}, rounds // 4)
    close(store)
    return rates


def random_requests(store: StructureStore) -> Iterator[np.ndarray]:
    """New structures each time, so that none is in a cache because it was asked for before."""
    rng = np.random.default_rng(0)
    while True:
        yield rng.integers(0, len(store), REQUEST)


def close(store: DistributedDataset) -> None:
    """Wait for rank 0 without keeping a core busy, as a barrier would, then close."""
    done = WORLD.Ibarrier()
    while not done.Test():
        time.sleep(0.01)
    store.close()


def main() -> None:
    """Print rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--atoms", type=int, nargs="+", default=[14, 64, 256])
    parser.add_argument("--total-atoms", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--packs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.packs is not None:
        for atoms in options.atoms:
            measure(options.packs / f"{atoms}.bp", atoms, options.rounds)
        measure_pieces(options.rounds)
        return
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for atoms in options.atoms:
            count = options.total_atoms // atoms
            structures = molecules(count, atoms, np.random.default_rng(0))
            write_pack(Path(folder) / f"{atoms}.bp", structures)
        command = [sys.executable, "-m", "mpi4py", *sys.argv, "--packs", folder]
        geometry = Geometry(ranks_per_node=options.ranks)
        subprocess.run(launch_command(geometry, command, launcher="mpiexec"), check=True)


if __name__ == "__main__":
    main()
