"""What masks and weights of labels cost where every structure has energy and forces.

    git worktree add ../before 616eecd^
    git worktree add ../after 616eecd
    python benchmarks/labels.py --builds ../before ../after

Each build runs this script on the same made-up ANI-1x file, in turns; every round is a process of
its own with one thread. Times are those of the process, whatever else the machine does, the best of
all rounds; those of data are what more structures take, without imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

HERE = Path(__file__).resolve()
FEW, MANY, TRAINED = 16_000, 160_000, 480
FORMULAS = 40
STAGES = ("download", "extract", "normalize", "pack")
CONFIG = """
sources: [ani1x]
download: {{mirrors: ["{folder}"]}}
paths: {{raw: "{folder}/raw", results: "{folder}/results"}}
normalize: {{val_fraction: 0.05, test_fraction: 0.05}}
models: {{ani1x: {{branches: {{ani1x: [ani1x]}}}}}}
model: {{encoder: {{width: 64, layers: 4}}, head: {{width: 64, layers: 2}}}}
train: {{epochs: 1, batch_structures: 16, warmup_steps: 0}}
"""


def write_raw(path: Path, structures: int) -> None:
    """Write molecules of 15 atoms on springs to a grid, as many in each formula."""
    rng = np.random.default_rng(0)
    grid = 1.4 * np.stack(np.meshgrid(*[np.arange(3.0)] * 3), axis=-1).reshape(-1, 3)[:15]
    count = structures // FORMULAS
    with h5py.File(path, "w") as file:
        for index in range(FORMULAS):
            group = file.create_group(f"C{index + 1}H{15 - index}")
            group["atomic_numbers"] = np.sort(rng.choice([1, 6, 7, 8], 15)).astype(np.uint8)
            noise = rng.normal(scale=0.1, size=(count, 15, 3))
            group["coordinates"] = (grid + noise).astype(np.float32)
            # Springs: extract compares energies with the work of the forces.
            group["wb97x_dz.energy"] = -100 + 0.05 * (noise**2).sum(axis=(1, 2))
            group["wb97x_dz.forces"] = (-0.1 * noise).astype(np.float32)


def seconds(call: Callable[[], Any]) -> float:
    """Time of a call on its only thread, whatever else the machine does."""
    started = time.process_time()
    call()
    return time.process_time() - started


def measure(structures: int, *, train: bool) -> dict[str, float]:
    """Seconds of each stage with the package that is installed or on the path."""
    from mtlpar.cli import main
    from mtlpar.store.dataset import PackedDataset
    from mtlpar.store.pack import Pack

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_raw(folder / "ani1x-release.h5", structures)
        (folder / "config.yaml").write_text(CONFIG.format(folder=folder))
        os.chdir(folder)
        found = {stage: seconds(lambda stage=stage: main([stage])) for stage in STAGES}
        pack = folder / "results/packed/ani1x/train.bp"
        found["load"] = seconds(lambda: PackedDataset(Pack.open(pack)).structures.forces.sum())
        if train:
            main(["train", "--model", "ani1x"])
            # The first training has the imports.
            checkpoints = ["--set", f"paths.results={folder}/results"]
            found["train"] = seconds(
                lambda: main(
                    ["train", "--model", "ani1x", "--set", "train.weight_decay=0.011", *checkpoints]
                )
            )
    return found


def measured(*, train: bool) -> dict[str, float]:
    """Seconds of training, or those that ``MANY - FEW`` structures add to the stages of data."""
    if train:
        return measure(TRAINED, train=True)
    few, many = (measure(count, train=False) for count in (FEW, MANY))
    return {stage: many[stage] - few[stage] for stage in few}


def run_in(checkout: Path, *, train: bool) -> dict[str, float]:
    """One round with the package of a checkout, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(HERE), "--measure", "train" if train else "data"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print rates of the builds and their ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--builds", type=Path, nargs="+", help="checkouts, the older one first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=("data", "train"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(train=options.measure == "train")))
        return
    builds = [path.resolve() for path in options.builds]
    best: dict[Path, dict[str, float]] = {build: {} for build in builds}
    for _ in range(options.rounds):
        for build in builds:
            data = run_in(build, train=False)
            taken = data | {"train": run_in(build, train=True)["train"]}
            for name, value in taken.items():
                best[build][name] = min(value, best[build].get(name, value))
    for name in ("extract", "pack", "load", "train"):
        count = TRAINED if name == "train" else MANY - FEW
        rates = [count / best[build][name] for build in builds]
        ratios = "  ".join(f"{rate:10,.0f} ({rate / rates[0]:.3f})" for rate in rates)
        print(f"{name:10} structures/s of CPU time: {ratios}")


if __name__ == "__main__":
    main()
