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
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from machine import describe_machine
from tqdm import tqdm

from mtlpar.evaluate.errors import predict_dataset, sums_of
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.model.file import load_model
from mtlpar.model.saved import SavedModel
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack
from mtlpar.train.checkpoint import CheckpointFolder, model_state

ROOT = Path(__file__).resolve().parent.parent
READ = ("packed", "normalized", "extracted", "ledger")
KINDS = {"direct": "equivariant", "conservative": "conservative"}
ERRORS = {"forces": "force_mae_ev_per_angstrom", "energy": "energy_mae_ev_per_atom"}
CHOICES = ("smallest score", "kept", "last")


def errors_by_choice(
    source: str, kind: str, seed: int, epochs: int, results: Path
) -> dict[tuple[str, str], float]:
    """Train a model in a folder of its own; its test errors by choice and label."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for part in READ:
            (folder / part).symlink_to(results.resolve() / part)
        changes = {
            "paths.results": name,
            "seed": seed,
            "train.epochs": epochs,
            "train.keep_checkpoints": epochs,
            "model.head.forces": KINDS[kind],
        }
        subprocess.run(
            [sys.executable, "-m", "mtlpar", "train", f"--model={source}"]
            + [f"--set={key}={value}" for key, value in changes.items()],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
        )
        (path,) = (folder / "models" / source).glob("model.pt")
        (checkpoints,) = (folder / "checkpoints" / source).iterdir()
        lines = (checkpoints / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ends = [line for line in map(json.loads, lines) if line["kind"] == "epoch"]
        kept = [line for line in ends if line["is_best"]][-1]
        chosen = (min(ends, key=lambda line: line["score"]), kept, ends[-1])
        model, test = load_model(path), Pack.open(results / "packed" / source / "test.bp")
        found = {}
        for choice, end in zip(CHOICES, chosen, strict=True):
            state = model_state(model.network)
            CheckpointFolder(checkpoints, rank=0).load(state, end["step"], alone=True)
            errors = test_errors(model, source, PackedDataset(test))
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
    parser.add_argument("--results", type=Path, default=ROOT / "results")
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
