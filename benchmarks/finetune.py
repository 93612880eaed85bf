"""What a pre-trained model is worth: errors of fine-tuning and of training from scratch by labels.

    python benchmarks/finetune.py --model results/models/mtl/model.pt --work FOLDER

Labels small molecules at a level of theory that no sample has (GFN2-xTB in implicit water), holds
out whole molecules for tests, and for each number of labels, seed and way to start trains with the
same budget of steps. Prints mean absolute errors with their spread over seeds, their ratio to
training from scratch, and how many labels from scratch have the error of fine-tuning. Finished
trainings stay in the folder, so an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.collections import g2
from ase.io import write
from machine import describe_machine
from tqdm import tqdm

from mtlpar.cli import main as mtlpar
from mtlpar.core.files import read_json, write_json
from mtlpar.finetune.rates import encoder_rate

LABELS = (30, 100, 300)
SEEDS = (0, 1, 2)
ONE_RATE = "full, one rate"
STARTS = ("scratch", "encoder only", "heads", "full", ONE_RATE)
STEPS = 400
BATCH = 8
ENERGY, FORCE = "energy_mae_ev_per_atom", "force_mae_ev_per_angstrom"
_BOHR = 0.529177210903
_HARTREE = 27.211386245988


def labelled(count: int, *, seed: int) -> Iterator[Atoms]:
    """Displaced molecules of H, C, N and O with energies and forces in implicit water."""
    from tblite.interface import Calculator

    rng = np.random.default_rng(seed)
    names = [
        name
        for name in g2.names
        if set(molecule(name).get_chemical_symbols()) <= set("HCNO") and len(molecule(name)) >= 5
    ]
    for index in tqdm(range(count), desc="labels", disable=None):
        name = names[index % len(names)]
        atoms = molecule(name)
        atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
        calculator = Calculator("GFN2-xTB", atoms.numbers, atoms.positions / _BOHR)
        calculator.set("verbosity", 0)
        calculator.add("alpb-solvation", "water")
        found = calculator.singlepoint()
        atoms.info |= {"energy": found.get("energy") * _HARTREE, "molecule": name}
        atoms.arrays["forces"] = -found.get("gradient") * _HARTREE / _BOHR
        yield atoms


def write_data(work: Path, labels: int, seed: int, frames: Sequence[Atoms]) -> None:
    """Files of one experiment: molecules of test are in neither train nor val."""
    rng = np.random.default_rng(seed)
    names = sorted({atoms.info["molecule"] for atoms in frames})
    held_out = set(rng.choice(names, len(names) // 3, replace=False))
    test = [atoms for atoms in frames if atoms.info["molecule"] in held_out]
    rest = [atoms for atoms in frames if atoms.info["molecule"] not in held_out]
    chosen = [rest[index] for index in rng.permutation(len(rest))[:labels]]
    cut = max(4, labels // 10)
    for split, part in (("train", chosen[cut:]), ("val", chosen[:cut]), ("test", test)):
        write(work / f"{split}.extxyz", part, format="extxyz")


def run(work: Path, model: Path, start: str, labels: int, seed: int) -> dict[str, float]:
    """Train and test once; returns the errors on test."""
    folder = work / f"{labels}-{seed}"
    splits = "{train: [train.extxyz], val: [val.extxyz], test: [test.extxyz]}"
    slow = 1.0 if start in ("scratch", ONE_RATE) else encoder_rate("full", same_forces=True)
    epochs = max(1, round(STEPS * BATCH / (labels - max(4, labels // 10))))
    settings = {
        "seed": seed,
        "sources": "[own]",
        "custom_sources.own": "{files: ['*.extxyz'], level_of_theory: GFN2-xTB(ALPB), "
        f"group_key: molecule, splits: {splits}, mirrors: ['{folder}']}}",
        "paths.raw": folder / "raw",
        "paths.results": folder / start.replace(",", "").replace(" ", "-"),
        "train": f"{{epochs: {epochs}, batch_structures: {BATCH}, patience_epochs: null, "
        f"warmup_steps: 50, learning_rate: {5e-3 if start == 'scratch' else 2e-3}, "
        f"encoder_rate: {slow}}}",
        "model": "{encoder: {width: 64, layers: 4, vector_channels: 16, radial_basis: 16}, "
        "head: {width: 64, layers: 2}}",
        "models.own.branches": "{own: [own]}",
    }
    if start in ("heads", "full", ONE_RATE):
        mode = start.partition(",")[0]
        settings["models.own.start_from"] = (
            f"{{model: {model}, mode: {mode}, branches: {{own: ani1x}}}}"
        )
    elif start != "scratch":
        # The branch has another name than any there, and starts from random weights.
        settings["models.own.start_from"] = f"{{model: {model}}}"
    empty = work / "empty.yaml"
    empty.write_text("{}")
    options = ["--config", str(empty)]
    for key, value in settings.items():
        options += ["--set", f"{key}={value}"]
    for command in ("download", "extract", "normalize", "pack", "train", "evaluate"):
        named = ["--model", "own"] if command in ("train", "evaluate") else []
        if mtlpar([command, *named, *options]):
            raise SystemExit(f"{command} failed")
    metrics: dict[str, float] = json.loads(
        Path(str(settings["paths.results"]), "metrics/own/own.json").read_text()
    )
    return {name: metrics[name] for name in (ENERGY, FORCE)}


def labels_needed(curve: Mapping[int, float], error: float) -> float | None:
    """Labels at which a learning curve reaches an error, on a line between logarithms."""
    counts = np.log(sorted(curve))
    errors = np.log([curve[count] for count in sorted(curve)])
    if np.log(error) < errors.min():
        return None
    return float(np.exp(np.interp(-np.log(error), -errors, counts)))


def main() -> None:
    """Run all experiments that are not in the folder yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True, help="pre-trained model.pt")
    parser.add_argument("--work", type=Path, required=True, help="folder of everything")
    parser.add_argument("--structures", type=int, default=800, help="structures to label")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many seeds")
    options = parser.parse_args()
    work, model = options.work.resolve(), options.model.resolve()
    work.mkdir(parents=True, exist_ok=True)
    # A config.yaml of the present folder would lie below the settings of the experiments.
    os.chdir(work)
    torch.set_num_threads(1)
    frames = list(labelled(options.structures, seed=0))
    found: dict[str, dict[str, float]] = {}
    for seed in SEEDS[: options.seeds]:
        for labels in LABELS:
            folder = work / f"{labels}-{seed}"
            folder.mkdir(exist_ok=True)
            write_data(folder, labels, seed, frames)
            for start in STARTS:
                note = folder / f"{start}.json"
                if not note.exists():
                    write_json(note, run(work, model, start, labels, seed))
                found[f"{start}-{labels}-{seed}"] = read_json(note)
    print_tables(found, SEEDS[: options.seeds])


def print_tables(found: Mapping[str, Mapping[str, float]], seeds: Sequence[int]) -> None:
    """Print errors by start and labels, and what pre-training saves."""
    print(describe_machine())
    for name, unit in ((ENERGY, "eV/atom"), (FORCE, "eV/Å")):
        print(f"\n{name} ({unit}): mean ± half range over {len(seeds)} seeds, ratio to scratch")
        curves: dict[str, dict[int, float]] = {}
        for start in STARTS:
            cells = []
            for labels in LABELS:
                values = [found[f"{start}-{labels}-{seed}"][name] for seed in seeds]
                base = [found[f"scratch-{labels}-{seed}"][name] for seed in seeds]
                curves.setdefault(start, {})[labels] = float(np.mean(values))
                ratio = np.mean(np.divide(values, base))
                cells.append(f"{np.mean(values):7.4f} ± {np.ptp(values) / 2:6.4f} ({ratio:4.2f})")
            print(f"  {start:20}" + "   ".join(cells))
        for start in STARTS[1:]:
            needed = labels_needed(curves["scratch"], curves[start][LABELS[1]])
            text = f"more than {LABELS[-1]}" if needed is None else f"{needed:.0f}"
            print(f"  {start}, {LABELS[1]} labels: scratch needs {text}")


if __name__ == "__main__":
    main()
