"""Test errors of the epoch that is kept, of the one with the smallest score, and of the last.

    python benchmarks/kept.py --epochs 16 --seeds 2

Every epoch of a training is a candidate for the model that is kept. This trains single sources of a
finished quickstart, with direct and with conservative forces, keeps the checkpoints of all epochs,
and prints the test errors of three of them, in eV/Å and eV/atom, with the ratio to those of the
epoch with the smallest validation score.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from machine import describe_machine
from tqdm import tqdm
from trainings import RESULTS, own_folder, run_stage

from mtlpar.core.error_names import MAE_NAMES
from mtlpar.evaluate.errors import predict_dataset, sums_of
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.model.file import load_model
from mtlpar.model.saved import SavedModel
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack
from mtlpar.train.checkpoint import CheckpointFolder, model_state

KINDS = {"direct": "equivariant", "conservative": "conservative"}
ERRORS = {label: MAE_NAMES[label] for label in ("forces", "energy")}
CHOICES = ("smallest score", "kept", "last")


def errors_by_choice(
    source: str, kind: str, seed: int, epochs: int, results: Path
) -> dict[tuple[str, str], float]:
    """Train a model in a folder of its own; its test errors by choice and label."""
    changes = {
        "seed": seed,
        "train.epochs": epochs,
        "train.keep_checkpoints": epochs,
        "model.head.forces": KINDS[kind],
    }
    with own_folder(results) as folder:
        run_stage("train", source, folder, changes)
        (checkpoints,) = (folder / "checkpoints" / source).iterdir()
        lines = (checkpoints / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ends = [line for line in map(json.loads, lines) if line["kind"] == "epoch"]
        kept = [line for line in ends if line["is_best"]][-1]
        chosen = (min(ends, key=lambda line: line["score"]), kept, ends[-1])
        model = load_model(folder / "models" / source / "model.pt")
        test = PackedDataset(Pack.open(results / "packed" / source / "test.bp"))
        found = {}
        for choice, end in zip(CHOICES, chosen, strict=True):
            state = model_state(model.network)
            CheckpointFolder(checkpoints, rank=0).load(state, end["step"], alone=True)
            errors = test_errors(model, source, test)
            found |= {(choice, label): errors[key] for label, key in ERRORS.items()}
    return found


def test_errors(model: SavedModel, source: str, dataset: PackedDataset) -> Mapping[str, float]:
    """Mean absolute errors with the weights that the model has now."""
    branch, references = model.branch_of(source), model.references[source]
    found = predict_dataset(model, dataset, branch, EvaluateSettings(), references=references)
    return sums_of(dataset, found).as_dict()


def main() -> None:
    """Train all models and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sources", nargs="+", default=["qm7x", "transition1x", "mptrj"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print(describe_machine())
    cases = list(product(options.sources, options.kinds, range(options.seeds)))
    ratios: dict[tuple[str, str], list[float]] = {}
    for case in tqdm(cases, unit=" training"):
        found = errors_by_choice(*case, options.epochs, options.results)
        source, kind, seed = case
        for choice in CHOICES:
            row = f"{source:<14s}{kind:<14s}seed {seed}  {choice:<16s}"
            for label in ERRORS:
                ratio = found[choice, label] / found[CHOICES[0], label]
                ratios.setdefault((choice, label), []).append(ratio)
                row += f"{label} {found[choice, label]:.4f} ({ratio:.2f})  "
            tqdm.write(row)
    for (choice, label), values in ratios.items():
        mean = statistics.geometric_mean(values)
        print(f"{choice:<16s} {label}: geometric mean of the ratios {mean:.3f}")


if __name__ == "__main__":
    main()
