"""What transfer brings to energies of a high level that are few: ANI1ccx of the embedded sample.

    python benchmarks/ccsd.py --work FOLDER

For each seed, which deals formulas to splits as well as weights, brings the sample up to packs with
a quarter of the groups for tests, trains the branch of ANI1ccx in each of the ways below, and
prints test errors and their ratios to training it alone. Then the errors of the other branches with
and without the sixth one. Finished trainings stay in the folder, so an interrupted run continues.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from machine import describe_machine

from mtlpar.cli import main as mtlpar
from mtlpar.core.files import read_json
from mtlpar.core.yaml_text import dump_yaml, load_yaml

REPOSITORY: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = "ani1ccx"
ENERGY: Final = "energy_mae_ev_per_atom"
FORCE: Final = "force_mae_ev_per_angstrom"
BATCH: Final = 16
FIVE: Final = ("ani1x", "qm7x", "mptrj", "alexandria", "transition1x")
WAYS: Final = {
    "alone": "alone: from random weights, on its own",
    "zero shot": "not at all: the branch of ANI1x with offsets fitted to 32 labels or half",
    "mtl": "mtl: with the other five, 16 epochs",
    "heads": "fine-tuned from the five, heads",
    "slow": "fine-tuned from the five, full, encoder at a tenth of the rate",
    "full": "fine-tuned from the five, full",
}


def configuration(seed: int, results: Path, epochs: int) -> dict[str, Any]:
    """The default config with the models that are compared."""
    config = load_yaml((REPOSITORY / "config.yaml").read_text())
    branches = {source: [source] for source in FIVE}
    small = {"epochs": epochs, "warmup_steps": 50}

    def tuned(mode: str, **more: float) -> dict[str, Any]:
        start = {"model": "five", "branches": {SOURCE: "ani1x"}, "mode": mode}
        return {
            "branches": {SOURCE: [SOURCE]},
            "start_from": start,
            "train": small | {"learning_rate": 2e-3} | more,
        }

    config["models"] = {
        "five": {"branches": branches},
        "alone": {"branches": {SOURCE: [SOURCE]}, "train": small},
        "mtl": {"branches": {**branches, SOURCE: [SOURCE]}},
        "heads": tuned("heads"),
        "slow": tuned("full", encoder_rate=0.1),
        "full": tuned("full"),
    }
    config["seed"] = seed
    config["normalize"]["test_fraction"] = 0.25
    config["train"]["batch_structures"] = BATCH
    config["download"]["mirrors"] = [str(REPOSITORY / "workflow" / "sample")]
    config["paths"] = {"raw": str(results.parent / "raw"), "results": str(results)}
    return dict(config)


def run(work: Path, seed: int, epochs: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Train and test all models with one seed; returns metrics by model and source."""
    results = work / f"seed-{seed}"
    path = work / f"seed-{seed}.yaml"
    config = configuration(seed, results, epochs)
    path.write_text(dump_yaml(config))
    if not (results / "ledger" / "leaks.json").is_file():
        for stage in ("download", "extract", "normalize", "pack", "leaks"):
            _call(stage, path)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for model in config["models"]:
        metrics = {source: results / f"metrics/{model}/{source}.json" for source in (*FIVE, SOURCE)}
        if not metrics[SOURCE].is_file():
            _call("train", path, "--model", model)
            _call("evaluate", path, "--model", model)
        found[model] = {source: read_json(file) for source, file in metrics.items()}
    return found


def _call(command: str, config: Path, *more: str) -> None:
    if mtlpar([command, *more, "--config", str(config)]):
        raise SystemExit(f"{command} failed")


def errors_of_the_branch(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, float]:
    """Test error of ANI1ccx by way, in eV/atom."""
    errors = {way: found[way][SOURCE][ENERGY] for way in WAYS if way != "zero shot"}
    errors["zero shot"] = found["five"][SOURCE]["zero_shot"]["ani1x"][ENERGY]
    return errors


def print_tables(results: Sequence[Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> None:
    """Print what each way brings, and what the sixth branch costs the others."""
    print(describe_machine())
    counts = [one["alone"][SOURCE]["num_structures"] for one in results]
    print(f"\nANI1ccx, test energies in eV/atom, {counts} structures; ratio to alone; range of it")
    errors = [errors_of_the_branch(one) for one in results]
    for way, title in WAYS.items():
        values = np.array([one[way] for one in errors])
        ratios = values / np.array([one["alone"] for one in errors])
        low, high = ratios.min(), ratios.max()
        print(f"  {title:65}{values.mean():8.4f}  {ratios.mean():5.2f}  {low:.2f} to {high:.2f}")
    print("\nthe other branches of mtl: errors with ANI1ccx over those without, mean and range")
    for source in FIVE:
        cells = []
        for name in (ENERGY, FORCE):
            ratios = np.array(
                [one["mtl"][source][name] / one["five"][source][name] for one in results]
            )
            cells.append(f"{ratios.mean():5.2f} ({ratios.min():.2f} to {ratios.max():.2f})")
        print(f"  {source:14} energies {cells[0]}   forces {cells[1]}")


def main() -> None:
    """Run what is not in the folder yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of everything")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--epochs", type=int, default=60, help="of the small trainings")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    # A config.yaml of the present folder would lie below the settings of the experiments.
    os.chdir(work)
    torch.set_num_threads(1)
    print_tables([run(work, seed, options.epochs) for seed in range(options.seeds)])


if __name__ == "__main__":
    main()
