"""Errors after short and long trainings, by how the learning rate falls.

A training that is asked for more epochs must not become worse. For each source, schedule and number
of epochs this prints the test errors, as means over seeds with their spread, and their ratios to
those of the shortest training of the first schedule.

    python benchmarks/schedule.py --epochs 16 65 200 --seeds 3

It reads the packs of a finished quickstart; every training runs on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

from machine import describe_machine
from tqdm import tqdm
from trainings import RESULTS, own_folder, run_stage

ERRORS = {
    "forces (eV/Å)": "force_mae_ev_per_angstrom",
    "energy (eV/atom)": "energy_mae_ev_per_atom",
}
SCHEDULES = {
    "cosine": ("train.schedule=cosine",),
    "cooldown 0.2": ("train.schedule=constant", "train.cooldown=0.2"),
    "cooldown 0.4": ("train.schedule=constant", "train.cooldown=0.4"),
    "cooldown 0.6": ("train.schedule=constant", "train.cooldown=0.6"),
}


class Case(NamedTuple):
    """One training."""

    source: str
    schedule: str
    epochs: int
    seed: int


def test_errors(case: Case, results: Path, extra: list[str]) -> dict[str, float]:
    """Train and test one model with the command line, in a folder of its own."""
    words = (f"train.epochs={case.epochs}", *SCHEDULES[case.schedule], *extra, f"seed={case.seed}")
    changes = dict(word.split("=", 1) for word in words)
    with own_folder(results) as folder:
        for stage in ("train", "evaluate"):
            run_stage(stage, case.source, folder, changes)
        found = (folder / "metrics" / case.source).glob("*.json")
        metrics = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    own = next(one for one in metrics if one["source"] == case.source)
    return {label: own[key] for label, key in ERRORS.items()}


def main() -> None:
    """Run all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sources", nargs="+", default=["transition1x", "mptrj", "qm7x"])
    parser.add_argument("--schedules", nargs="+", default=["cosine", "cooldown 0.4"])
    parser.add_argument("--epochs", nargs="+", type=int, default=[16, 65, 200])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--set", action="append", default=[], help="a setting of all trainings")
    options = parser.parse_args()
    grid = product(options.sources, options.schedules, options.epochs, range(options.seeds))
    cases = [Case(*values) for values in grid]
    print(describe_machine())
    with ThreadPoolExecutor(options.jobs) as pool:
        errors = pool.map(lambda case: test_errors(case, options.results, options.set), cases)
        found = dict(zip(cases, tqdm(errors, total=len(cases), unit=" training"), strict=True))
    for source, label in product(options.sources, ERRORS):
        print(f"\n{source}, {label}: mean ± spread over {options.seeds} seeds (ratio)")
        first = None
        for schedule, epochs in product(options.schedules, options.epochs):
            values = [
                found[Case(source, schedule, epochs, seed)][label] for seed in range(options.seeds)
            ]
            mean, spread = statistics.mean(values), statistics.pstdev(values)
            first = first or mean
            row = f"  {schedule:<14s} {epochs:4d} epochs"
            print(f"{row}  {mean:.4f} ± {spread:.4f} ({mean / first:.2f})")


if __name__ == "__main__":
    main()
