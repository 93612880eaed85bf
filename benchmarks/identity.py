"""How well fingerprints find copies of a geometry, what they mistake for one, and what they cost.

    python benchmarks/identity.py [--rounds 5] [--conformers 200000]

Structures are those of the embedded sample. Copies are rewritten in every way at once: moved,
turned, re-ordered, wrapped, and rounded again. Others are displaced by normal deviates of a root
mean square length per atom, or in one atom only. Conformers are one molecule, displaced at random:
of so many structures of one composition, any two that count as copies are a mistake.
"""

from __future__ import annotations

import argparse
import itertools
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import describe_machine

from mtlpar.core.hashing import mix64
from mtlpar.core.structures import StructureBatch
from mtlpar.extract.checks import check
from mtlpar.graph.fingerprint import TOLERANCE, fingerprints
from mtlpar.graph.neighbors import neighbor_list
from mtlpar.graph.settings import GraphSettings
from mtlpar.normalize.copies import name_geometries
from mtlpar.normalize.split import repeated
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings

SAMPLE = Path(__file__).parents[1] / "workflow" / "sample"
FILES = {
    "ani1x": ("ani1x-release.h5",),
    "qm7x": ("1000.xz", "2000.xz"),
    "transition1x": ("Transition1x.h5",),
    "mptrj": ("MPtrj_2022.9_full.json",),
    "alexandria": ("alexandria_000.json.bz2", "alexandria_001.json.bz2"),
}
AMPLITUDES_ANGSTROM = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
# Beside these, conformers of one molecule are as far apart as in a trajectory at room temperature.
CONFORMER_ANGSTROM = 0.1
# Far more rows than the sample has, as in the real archives.
NAMED_ROWS = 2_000_000


def main() -> None:
    """Print every measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="times that all are rewritten")
    parser.add_argument("--conformers", type=int, default=200_000, help="of one molecule")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    sources = {name: read(name) for name in FILES}
    print(describe_machine())
    for name, batch in sources.items():
        atoms = batch.total_atoms / len(batch)
        print(f"\n{name}: {len(batch):,} structures, {atoms:.1f} atoms on average")
        missed(batch, options.rounds, rng)
        displaced(batch, rng)
        mistaken(batch)
        costs(name, batch)
    conformers(sources["ani1x"], options.conformers, rng)
    naming(rng)


def read(name: str) -> StructureBatch:
    """Structures of a source as the extract stage keeps them."""
    blocks = [
        check(block.batch, max_force=1000.0).batch
        for file in FILES[name]
        for block in get_source(name).read(SAMPLE / name / file, SourceSettings())
    ]
    return StructureBatch.concatenate(blocks)


def with_geometry(
    batch: StructureBatch,
    positions: np.ndarray,
    cell: np.ndarray | None = None,
    numbers: np.ndarray | None = None,
) -> StructureBatch:
    """The structures with other positions, rounded to float32, and perhaps cells and elements."""
    columns = batch.columns()
    del columns["structure_id"], columns["fingerprint"]
    columns["positions"] = positions.astype(np.float32)
    columns["cell"] = batch.cell if cell is None else cell
    columns["atomic_numbers"] = batch.atomic_numbers if numbers is None else numbers
    return StructureBatch.from_labels(**columns)


def rewritten(
    batch: StructureBatch, rng: np.random.Generator, *, reach: float, decimals: int | None = None
) -> StructureBatch:
    """The same geometries, moved by up to ``reach`` Å along each axis."""
    count = len(batch)
    owner = np.repeat(np.arange(count), batch.num_atoms)
    cell = batch.cell.astype(np.float64)
    turn = np.linalg.qr(rng.normal(size=(count, 3, 3))).Q
    turn *= np.linalg.det(turn)[:, None, None]
    images = rng.integers(-1, 2, (len(owner), 3)) * batch.pbc[owner]
    positions = batch.positions + np.einsum("ai,aij->aj", images, cell[owner])
    positions = np.einsum("ai,aij->aj", positions, turn[owner])
    positions += rng.uniform(-reach, reach, (count, 3))[owner]
    order = np.lexsort((rng.random(len(owner)), owner))
    positions, cell = positions[order], cell @ turn
    if decimals is not None:
        positions, cell = positions.round(decimals), cell.round(decimals)
    return with_geometry(batch, positions, cell, batch.atomic_numbers[order])


def are_copies(first: StructureBatch, second: StructureBatch) -> np.ndarray:
    """Whether structures of two batches count as copies, pair by pair."""
    left, right = (fingerprints(batch).astype(np.int64) for batch in (first, second))
    near = (np.abs(left - right)[:, 1:] <= TOLERANCE).all(axis=1)
    return near & (left[:, 0] == right[:, 0])


def missed(batch: StructureBatch, rounds: int, rng: np.random.Generator) -> None:
    """Copies that are not found, by how far they are moved and how they are rounded."""
    for what, options in (
        ("moved by up to 10 Å, float32", {"reach": 10.0}),
        ("moved by up to 60 Å, float32", {"reach": 60.0}),
        ("written with 6 decimals", {"reach": 10.0, "decimals": 6}),
        ("written with 5 decimals", {"reach": 10.0, "decimals": 5}),
        ("written with 4 decimals", {"reach": 10.0, "decimals": 4}),
        ("written with 3 decimals", {"reach": 10.0, "decimals": 3}),
    ):
        found = sum(
            int(are_copies(batch, rewritten(batch, rng, **options)).sum()) for _ in range(rounds)
        )
        total = rounds * len(batch)
        print(f"  copies {what:<32}{total - found:>8,} of {total:,} missed")


def displaced(batch: StructureBatch, rng: np.random.Generator) -> None:
    """Displaced structures that count as copies; single atoms in a cell cannot be displaced."""
    batch = batch.take(np.flatnonzero(batch.num_atoms > 1))
    for amplitude in AMPLITUDES_ANGSTROM:
        noise = rng.normal(scale=amplitude / np.sqrt(3), size=batch.positions.shape)
        taken = are_copies(batch, with_geometry(batch, batch.positions + noise)).mean()
        print(f"  all atoms displaced by {amplitude:<8g} Å{taken:>17.2%} taken for copies")
    for amplitude in (0.001, 0.003, 0.01):
        step = rng.normal(size=(len(batch), 3))
        step *= amplitude / np.linalg.norm(step, axis=1, keepdims=True)
        positions = batch.positions.astype(np.float64)
        positions[batch.offsets[:-1] + rng.integers(0, batch.num_atoms)] += step
        taken = are_copies(batch, with_geometry(batch, positions)).mean()
        print(f"  one atom displaced by {amplitude:<8g} Å{taken:>18.2%} taken for copies")


def mistaken(batch: StructureBatch) -> None:
    """Pairs of one composition that count as copies, and the largest difference of distances."""
    words = fingerprints(batch)
    sizes = np.unique(words[:, 0], return_counts=True)[1]
    names = name_geometries(words, mix64(np.arange(len(batch), dtype=np.uint64)))
    rows = repeated(names)
    pairs = [(a, b) for a, b in itertools.pairwise(rows) if names[a] == names[b]]
    worst = max((difference(batch, a, b) for a, b in pairs), default=0.0)
    print(
        f"  {int((sizes * (sizes - 1) // 2).sum()):,} pairs of one composition: {len(pairs)} count "
        f"as copies; their distances differ by {worst:.1e} Å at most"
    )


def difference(batch: StructureBatch, first: int, second: int) -> float:
    """Largest difference of the sorted distances within 6 Å of two structures, by elements."""
    lists = [distances(batch.slice(index, index + 1)) for index in (first, second)]
    if lists[0].shape != lists[1].shape:
        return float("inf")
    return float(np.abs(lists[0] - lists[1]).max(initial=0.0))


def distances(structure: StructureBatch) -> np.ndarray:
    """Elements and distance of all pairs of neighbours of one structure, in order."""
    edges = neighbor_list(structure, GraphSettings(cutoff_angstrom=6.0))
    positions = structure.positions.astype(np.float64)
    vector = positions[edges.sender] + edges.shift - positions[edges.receiver]
    ends = structure.atomic_numbers[[edges.receiver, edges.sender]]
    rows = np.column_stack([*ends, np.linalg.norm(vector, axis=1)])
    return rows[np.lexsort(rows.T[::-1])]


def costs(name: str, batch: StructureBatch) -> None:
    """Time of a fingerprint beside that of reading and checking a structure."""
    reading = best(lambda: read(name)) / len(batch)
    computing = best(lambda: fingerprints(batch)) / len(batch)
    print(
        f"  {computing * 1e6:.0f} µs a structure for the fingerprint, {reading * 1e6:.0f} µs for "
        "reading and checking"
    )


def best(function: Callable[[], object]) -> float:
    """Seconds of the fastest of three calls."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def conformers(batch: StructureBatch, count: int, rng: np.random.Generator) -> None:
    """Mistakes among many geometries of one molecule, which is the largest of the sample."""
    one = batch.take(np.full(count, np.argmax(batch.num_atoms)))
    noise = rng.normal(scale=CONFORMER_ANGSTROM / np.sqrt(3), size=one.positions.shape)
    names = name_geometries(
        fingerprints(with_geometry(one, one.positions + noise)),
        mix64(np.arange(count, dtype=np.uint64)),
    )
    print(
        f"\n{count:,} conformers of a molecule of {one.num_atoms[0]} atoms, {CONFORMER_ANGSTROM} Å "
        f"an atom: {len(repeated(names))} of {count * (count - 1) // 2:.1e} pairs count as copies"
    )


def naming(rng: np.random.Generator) -> None:
    """Time to compare fingerprints, each with one copy."""
    words = rng.integers(1, 2**32, (NAMED_ROWS // 2, 5), dtype=np.uint32)
    # A thousand compositions, and a copy of all geometries.
    words[:, 0] = words[:, 0] % 1000 + 1
    words = np.concatenate([words, words + np.uint32([0, 3, 3, 3, 3])])
    ids = mix64(np.arange(len(words), dtype=np.uint64))
    tracemalloc.start()
    start = time.perf_counter()
    names = name_geometries(words, ids)
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    print(
        f"naming {len(words):,} structures: {seconds / len(words) * 1e6:.2f} µs and "
        f"{peak / len(words):.0f} bytes each; {len(words) - len(np.unique(names)):,} copies found"
    )


if __name__ == "__main__":
    main()
