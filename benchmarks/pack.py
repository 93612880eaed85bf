"""Speed and size of packs, beside plain NumPy on the same bytes.

Made-up molecules (or crystals, with ``--cell``) are packed and read back as the stages do it.
Times are the best of several runs in alternation: on the clock, and of the CPU with all its
processes, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import logging
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from machine import describe_machine
from made_up import write_extracted

from mtlpar.core.fields import SPLITS
from mtlpar.core.files import remove
from mtlpar.core.paths import Workspace
from mtlpar.core.share import Share
from mtlpar.core.structures import StructureBatch
from mtlpar.core.wording import counted
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage
from mtlpar.pack.settings import PackSettings
from mtlpar.pack.shuffle import PACKED_FIELDS
from mtlpar.store.bp import BpReader

SOURCE = "made-up"
HYDRAGNN_BYTES_PER_ATOM = 700  # as its authors' graphs with stored edges take on disk


class Seconds(NamedTuple):
    """Time of an action."""

    wall: float
    cpu: float


def main() -> None:
    """Print rates, sizes and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", type=int, default=400_000)
    parser.add_argument("--atoms", type=int, default=20, help="atoms per structure")
    parser.add_argument("--part-structures", type=int, default=200_000)
    parser.add_argument("--block-structures", type=int, default=PackSettings().block_structures)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cell", action="store_true", help="crystals with cells and stresses")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    options = parser.parse_args()
    logging.disable()
    print(describe_machine())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        workspace = Workspace(raw=Path(name), results=Path(name))
        write_source(workspace, options)
        measure(workspace, options)


def write_source(workspace: Workspace, options: argparse.Namespace) -> None:
    """Write what extract and normalize would have written."""
    rng = np.random.default_rng(0)
    sizes = [
        min(options.part_structures, options.structures - first)
        for first in range(0, options.structures, options.part_structures)
    ]
    write_extracted(workspace, SOURCE, (make_part(rng, size, options) for size in sizes))
    settings = NormalizeSettings()
    normalize.run(SOURCE, workspace=workspace, settings=settings, seed=0, jobs=options.jobs)


def make_part(rng: np.random.Generator, count: int, options: argparse.Namespace) -> StructureBatch:
    """Random structures; only sizes and which columns vary matter here."""
    total = count * options.atoms
    cells = {
        "cell": rng.random((count, 3, 3), dtype=np.float32),
        "pbc": np.ones((count, 3)),
        "stress": rng.random((count, 6), dtype=np.float32),
        "stress_mask": np.ones(count),
    }
    return StructureBatch.from_labels(
        num_atoms=np.full(count, options.atoms),
        atomic_numbers=rng.choice([1, 6, 7, 8], total),
        positions=rng.random((total, 3), dtype=np.float32),
        energy=rng.random(count),
        forces=rng.random((total, 3), dtype=np.float32),
        group=rng.integers(0, 1 << 40, count, dtype=np.uint64),
        **(cells if options.cell else {}),
    )


def measure(workspace: Workspace, options: argparse.Namespace) -> None:
    """Time packing and reading in alternation with NumPy doing the same to the same bytes."""
    packs = [workspace.pack(SOURCE, split) for split in SPLITS]
    settings = PackSettings(block_structures=options.block_structures)

    def pack() -> None:
        stage.run(SOURCE, workspace=workspace, settings=settings, seed=0, jobs=options.jobs)

    def sort() -> None:
        remove(workspace.sorted_runs(SOURCE))
        stage.sort_share(
            SOURCE,
            share=Share(),
            workspace=workspace,
            settings=settings,
            seed=0,
            jobs=options.jobs,
        )

    pack()
    columns = stored_columns(packs)
    saved = [workspace.results / f"plain-{index}.npy" for index in range(len(columns))]
    seconds = best_of(
        options.repeats,
        {
            "pack": pack,
            "share": sort,
            "gather": pack,
            "read": lambda: [read(path) for path in packs],
            "numpy save": lambda: [np.save(*pair) for pair in zip(saved, columns, strict=True)],
            "numpy load": lambda: [np.load(path) for path in saved],
            "memory copy": lambda: [column.copy() for column in columns],
        },
    )
    num_bytes = sum(column.nbytes for column in columns)
    report(seconds, num_bytes, packs, options)


def read(path: Path) -> StructureBatch:
    """Read a whole pack."""
    with BpReader(path) as reader:
        return reader.read()


def stored_columns(packs: list[Path]) -> list[np.ndarray]:
    """All columns that the packs store."""
    columns: list[np.ndarray] = []
    for path in packs:
        with BpReader(path) as reader:
            columns += [
                reader.read_column(field.name)
                for field in PACKED_FIELDS
                if field.name in reader.header.fields
            ]
    return columns


def best_of(repeats: int, actions: dict[str, Callable[[], object]]) -> dict[str, Seconds]:
    """Shortest times of each action, measured in alternation."""
    best = dict.fromkeys(actions, Seconds(float("inf"), float("inf")))
    for _ in range(repeats):
        for name, action in actions.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            action()
            wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
            best[name] = Seconds(min(best[name].wall, wall), min(best[name].cpu, cpu))
    return best


def cpu_seconds() -> float:
    """CPU time of this process and of its finished children."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def report(
    seconds: dict[str, Seconds], num_bytes: int, packs: list[Path], options: argparse.Namespace
) -> None:
    """Print the table and the ratios."""
    structures, atoms = options.structures, options.structures * options.atoms
    disk = sum(file.stat().st_size for path in packs for file in path.iterdir())
    print(f"{structures:,} structures of {options.atoms} atoms, {counted(options.jobs, 'job')}\n")
    print(f"{'':12} {'s (clock)':>9} {'s (CPU)':>9} {'structures/CPU s':>17} {'GB/CPU s':>9}")
    for name, (wall, cpu) in seconds.items():
        rate, speed = structures / cpu, num_bytes / cpu / 1e9
        print(f"{name:12} {wall:9.3f} {cpu:9.3f} {rate:17,.0f} {speed:9.2f}")
    limit = 30 * atoms + 100 * structures
    rest = (disk - 25 * atoms) / structures
    print(f"\ndisk         {disk / 1e6:.1f} MB, limit {limit / 1e6:.1f} MB at 30 B/atom + 100 B")
    print(f"             {disk / atoms:.1f} B/atom in all, or 25 B/atom + {rest:.1f} B/structure")
    for name, target in (("pack", 200_000), ("read", 500_000)):
        rate = structures / seconds[name].wall / (options.jobs if name == "pack" else 1)
        print(
            f"{name:12} {rate:,.0f} structures/s per core by the clock, "
            f"{structures / seconds[name].cpu:,.0f} by CPU time  (target >= {target:,})"
        )
    for name, plain in (("pack", "numpy save"), ("read", "numpy load")):
        for other in (plain, "memory copy"):
            ratio = seconds[name].cpu / seconds[other].cpu
            print(f"ratio        {ratio:.2f}x CPU time of {other} for {name}")
    for name, what in (("share", "in jobs on any nodes"), ("gather", "in the one behind them")):
        ratio = seconds[name].cpu / seconds["pack"].cpu
        print(f"ratio        {ratio:.2f}x CPU time of pack {what}")
    ratio = HYDRAGNN_BYTES_PER_ATOM * atoms / disk
    print(f"ratio        {ratio:.1f}x bytes in HydraGNN, at {HYDRAGNN_BYTES_PER_ATOM} B/atom")


if __name__ == "__main__":
    main()
