"""A model for dynamics from a direct one: how many epochs, and at which rate.

    python benchmarks/finish.py --ways 4:2e-3 8:2e-3 8:5e-3 --seeds 2

The quickstart finishes `mtl`, which has direct forces, as `mtl_conservative`, whose forces are the
gradient of its energy. For each way (epochs:rate) this prints the test errors of the finished model
as means over seeds, their ratios to those of the first way, and CPU seconds. It reads the packs and
`mtl` of a finished quickstart; every training runs on one thread. Errors are in eV/atom, eV/Å and
eV/Å^3.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
from itertools import product
from pathlib import Path

from machine import describe_machine
from tqdm import tqdm
from trainings import RESULTS, own_folder, run_stage

from mtlpar.core.error_names import MAE_NAMES

MODEL = "mtl_conservative"
# Errors of a few structures say nothing.
FEWEST_STRUCTURES = 50

Key = tuple[str, str]


def finish(way: str, seed: int, results: Path) -> tuple[dict[Key, float], float]:
    """Test errors of a model finished in a folder of its own, by source and label; CPU seconds."""
    epochs, rate = way.split(":")
    changes = {
        "seed": seed,
        f"models.{MODEL}.train.epochs": epochs,
        f"models.{MODEL}.train.learning_rate": rate,
    }
    with own_folder(results, "mtl") as folder:
        before = _cpu_seconds()
        run_stage("train", MODEL, folder, changes)
        taken = _cpu_seconds() - before
        run_stage("evaluate", MODEL, folder, changes)
        found = {}
        for path in (folder / "metrics" / MODEL).glob("*.json"):
            metrics = json.loads(path.read_text(encoding="utf-8"))
            if metrics["num_structures"] >= FEWEST_STRUCTURES:
                found |= {
                    (metrics["source"], label): metrics[name]
                    for label, name in MAE_NAMES.items()
                    if metrics.get(name) is not None
                }
    return found, taken


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Finish the model in all ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--ways", nargs="+", default=["4:2e-3", "8:2e-3", "8:5e-3"], metavar="EPOCHS:RATE"
    )
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print(describe_machine())
    cases = list(product(options.ways, range(options.seeds)))
    found = {case: finish(*case, options.results) for case in tqdm(cases, unit=" training")}
    first: dict[Key, float] = {}
    for way in options.ways:
        runs = [found[way, seed] for seed in range(options.seeds)]
        means = {key: statistics.fmean(errors[key] for errors, _ in runs) for key in runs[0][0]}
        first = first or means
        print(f"\n{way}: {statistics.fmean(seconds for _, seconds in runs):.0f} CPU s")
        for source, label in sorted(means):
            key = source, label
            values = ", ".join(f"{errors[key]:.4f}" for errors, _ in runs)
            ratio = means[key] / first[key]
            print(f"  {source:<14s} {label:<7s} {means[key]:.4f} ({values})  ratio {ratio:.2f}")
        for label in MAE_NAMES:
            ratios = [means[key] / first[key] for key in means if key[1] == label]
            mean = statistics.geometric_mean(ratios)
            print(f"  all            {label:<7s} geometric mean of the ratios {mean:.2f}")


if __name__ == "__main__":
    main()
