"""How fast the normalize stage is and how much memory it takes, against reading its columns alone.

    python benchmarks/normalize.py --structures 1000000 --jobs 1

The source is made up: molecules of four elements, or crystals of 89, in groups of ten frames.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from machine import describe_machine
from made_up import write_extracted

from mtlpar.core.hashing import mix64
from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.normalize import stage
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.store.bp import BpReader
from mtlpar.store.extracted import ExtractedSource

SOURCE = "ani1x"
PART_STRUCTURES = 200_000
FRAMES_PER_GROUP = 10
# What the stage looks at; positions, the largest column, is not among them.
COLUMNS = (
    "group", "structure_id", "fingerprint", "official_split", "num_atoms", "atomic_numbers",
    "energy", "forces",
)  # fmt: skip


def main() -> None:
    """Time both sides and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", type=int, default=400_000)
    parser.add_argument("--atoms", type=int, default=14, help="atoms per structure")
    parser.add_argument("--elements", type=int, default=4, help="4 as in molecules, 89 in crystals")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(raw=Path(folder) / "raw", results=Path(folder) / "results")
        # In a process of its own: what writing needs is not what the stage needs.
        arguments = (workspace, options.structures, options.atoms, options.elements)
        writer = get_context("spawn").Process(target=write_source, args=arguments)
        writer.start()
        writer.join()
        before = peak_megabytes()
        pairs = [
            (time_reading(workspace), time_stage(workspace, options.jobs))
            for _ in range(options.repeats)
        ]
    reading, normalizing = (min(seconds) for seconds in zip(*pairs, strict=True))
    count = options.structures
    print(describe_machine())
    print(f"{count:,} structures of {options.atoms} atoms, {options.elements} elements")
    print(f"{'':<24}{'seconds':>10}{'structures/s':>16}")
    for name, seconds in (("read the columns", reading), ("normalize", normalizing)):
        print(f"{name:<24}{seconds:>10.2f}{count / seconds:>16,.0f}")
    print(f"peak memory  {before:.0f} MB before, {peak_megabytes():.0f} MB after")
    print(f"ratio  {normalizing / reading:.2f}x the time of reading the columns alone")


def write_source(workspace: Workspace, structures: int, atoms: int, elements: int) -> None:
    """Write parts as the extract stage would; frames of a group have one composition."""
    rng = np.random.default_rng(0)
    symbols = np.array([1, 6, 7, 8]) if elements == 4 else np.arange(1, elements + 1)

    def parts() -> Iterator[StructureBatch]:
        for first in range(0, structures, PART_STRUCTURES):
            count = min(PART_STRUCTURES, structures - first)
            groups = -(-count // FRAMES_PER_GROUP)
            formulas = rng.choice(symbols, (groups, atoms))
            numbers = np.repeat(formulas, FRAMES_PER_GROUP, axis=0)[:count].ravel()
            rows = first + np.arange(count)
            yield StructureBatch.from_labels(
                num_atoms=np.full(count, atoms),
                atomic_numbers=numbers,
                positions=rng.random((count * atoms, 3), np.float32) * 8,
                energy=-30.0 * numbers.reshape(count, atoms).sum(axis=1) + rng.normal(size=count),
                forces=rng.random((count * atoms, 3), np.float32) - 0.5,
                group=mix64((rows // FRAMES_PER_GROUP).astype(np.uint64)),
            )

    write_extracted(workspace, SOURCE, parts())


def time_reading(workspace: Workspace) -> float:
    """Seconds to read the stage's columns, part by part."""
    start = time.perf_counter()
    for path in ExtractedSource(workspace, SOURCE).part_paths:
        with BpReader(path) as reader:
            for name in COLUMNS:
                reader.read_column(name)
    return time.perf_counter() - start


def time_stage(workspace: Workspace, jobs: int) -> float:
    """Seconds of the stage."""
    start = time.perf_counter()
    stage.run(SOURCE, workspace=workspace, settings=NormalizeSettings(), seed=0, jobs=jobs)
    return time.perf_counter() - start


def peak_megabytes() -> float:
    """Largest memory of this process so far; workers hold one part each."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
