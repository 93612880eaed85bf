"""A dress rehearsal: sources of any part of the real size from native files to a loader's epoch.

    python benchmarks/full_size.py [--fraction 1/4096 1/1024] [--source qm7x ...] [--folder /tmp]

To be run at the root of the repository. ``tools/full_size`` writes the native files of one source
after the other, and each stage runs in a process of its own, on one core; at its end what it read
is removed. Seconds are of CPU time, memory is the peak of the process, and what `mtlpar plan data`
predicts for a machine file stands beside. Of several fractions the last table has the exponents by
which time and memory grow: 1.00 is linear, and what a stage costs once makes it less.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from loader import rank_loader, structures_of
from machine import describe_machine

from mtlpar.core.files import file_digest
from mtlpar.core.paths import Workspace
from mtlpar.download import stage as download
from mtlpar.download.settings import DownloadSettings
from mtlpar.extract import stage as extract
from mtlpar.extract.settings import ExtractSettings
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings
from mtlpar.plan.data import plan_data, rates_of
from mtlpar.plan.machine import load_machine
from mtlpar.plan.workload import read_datasets
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack

ROOT = Path(__file__).parents[1]
BATCH = 128
# What is less is as good as nothing.
LEAST_BYTES = 1e7


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage took: CPU seconds, seconds, and peak memory in bytes."""

    cpu_s: float
    wall_s: float
    memory_bytes: float


def main() -> None:
    """Print a table for each source and fraction, and how costs grow."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fraction", nargs="+", type=Fraction, default=[Fraction(1, 4096)])
    parser.add_argument("--source", nargs="+", help="sources (default: all five)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--machine", default="laptop", help="whose rates are compared")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tools.full_size.native import WRITERS

    print(describe_machine())
    for source in options.source or WRITERS:
        costs: dict[int, dict[str, Cost]] = {}
        for fraction in sorted(options.fraction):
            with tempfile.TemporaryDirectory(dir=options.folder) as name:
                structures, taken = rehearse(
                    source, fraction, Path(name), WRITERS[source], options.machine
                )
            costs[structures] = taken
        if len(costs) > 1:
            print_growth(source, costs)


def rehearse(
    source: str,
    fraction: Fraction,
    folder: Path,
    write: Callable[[Path, int, np.random.Generator], int],
    machine: str,
) -> tuple[int, dict[str, Cost]]:
    """Send a part of a source through all stages; return its structures and the stages' costs."""
    [dataset] = read_datasets([source], ROOT / "workflow" / "dataset_sizes.csv")
    workspace = Workspace(raw=folder / "raw", results=folder / "results")
    mirror = folder / "mirror"
    mirror.mkdir()
    written = folder / "written"

    def generate() -> None:
        wanted = round(dataset.structures * fraction)
        written.write_text(str(write(mirror, wanted, np.random.default_rng(0))))
        names = sorted(path.name for path in mirror.iterdir())
        lines = [f"{file_digest(mirror / name)}  {name}\n" for name in names]
        (mirror / "checksums.txt").write_text("".join(lines))

    def bring() -> None:
        settings = DownloadSettings(mirrors=(str(mirror),))
        download.run(source, workspace=workspace, settings=settings, catalogue=Path())

    def load() -> None:
        for split in ("train", "val", "test"):
            PackedDataset(Pack.of(workspace, source, split))

    def epoch() -> None:
        path = workspace.pack(source, "train")
        print(f"  {structures_of(rank_loader(path, BATCH, threads=1)):,} structures in an epoch")

    settings = NormalizeSettings(val_fraction=0.1, test_fraction=0.1)
    stages: dict[str, tuple[Callable[[], None], Path | None]] = {
        "write": (generate, None),
        "download": (bring, mirror),
        "extract": (
            lambda: extract.run(source, workspace=workspace, settings=ExtractSettings()),
            workspace.raw_folder(source),
        ),
        "normalize": (
            lambda: normalize.run(source, workspace=workspace, settings=settings, seed=0),
            None,
        ),
        "pack": (
            lambda: pack.run(source, workspace=workspace, settings=PackSettings(), seed=0),
            workspace.extracted_folder(source),
        ),
        "load": (load, None),
        "epoch": (epoch, None),
    }
    taken, sizes = {}, {}
    for stage, (work, done_with) in stages.items():
        taken[stage] = cost_of(work)
        sizes[stage] = size_of(folder)
        if done_with is not None:
            shutil.rmtree(done_with)
    structures = int(written.read_text())
    made = replace(dataset, structures=structures, raw_bytes=0)
    predicted = {
        cost.stage: cost for cost in plan_data([made], rates_of(load_machine(machine)), cores=1)
    }
    print(f"\n{source}, {fraction} of the real size: {structures:,} structures")
    print(
        f"{'stage':<10} {'CPU s':>8} {'predicted':>10} {'ratio':>6} {'by clock':>9} "
        f"{'structures/s':>13} {'peak MB':>8} {'disk MB':>8}"
    )
    for stage, cost in taken.items():
        expected = predicted[stage].seconds if stage in predicted and stage != "download" else 0.0
        print(
            f"{stage:<10} {cost.cpu_s:>8.2f} {expected or math.nan:>10.2f} "
            f"{cost.cpu_s / expected if expected else math.nan:>6.2f} {cost.wall_s:>9.2f} "
            f"{structures / cost.cpu_s:>13,.0f} {cost.memory_bytes / 1e6:>8,.0f} "
            f"{sizes[stage] / 1e6:>8,.0f}"
        )
    return structures, taken


def cost_of(work: Callable[[], None]) -> Cost:
    """Run something in a process of its own.

    Raises:
        SystemExit: If it fails.
    """
    sys.stdout.flush()
    started = time.perf_counter()
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            sys.stdout.flush()
            status = 0
        finally:
            # Nothing of this process may run twice at its end, so that errors are printed here.
            if status:
                traceback.print_exc()
            os._exit(status)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"a stage failed with status {status}")
    return Cost(
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=time.perf_counter() - started,
        memory_bytes=usage.ru_maxrss * 1024.0,
    )


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def print_growth(source: str, costs: dict[int, dict[str, Cost]]) -> None:
    """How costs grow with the number of structures, fitted to all sizes."""
    base = cost_of(lambda: None).memory_bytes
    print(f"\n{source}, growth with the number of structures: seconds = once + structures / rate,")
    print(f"exponents of time, and of memory beyond the {base / 1e6:,.0f} MB of an idle process")
    print(f"{'stage':<10} {'once s':>7} {'rate':>11} {'CPU time':>9} {'memory':>7}")
    counts = np.array([*costs])
    for stage in next(iter(costs.values())):
        seconds = np.array([taken[stage].cpu_s for taken in costs.values()])
        beyond = [taken[stage].memory_bytes - base for taken in costs.values()]
        slope, once = np.polyfit(counts, seconds, 1)
        exponents = [
            np.polyfit(np.log(counts), np.log(values), 1)[0]
            for values in (seconds, np.maximum(beyond, LEAST_BYTES))
        ]
        rate = f"{1 / slope:,.0f}" if slope > 0 else "-"
        print(f"{stage:<10} {once:>7.2f} {rate:>11} {exponents[0]:>9.2f} {exponents[1]:>7.2f}")


if __name__ == "__main__":
    main()
