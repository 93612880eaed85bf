r"""A student beside its teacher, and beside the same student on the labels alone.

    python benchmarks/distill.py --model results/models/mtl_conservative/model.pt --source ani1x \
        --packs results/packed --work /tmp/distill

Each seed distills one student and trains another of the same architecture, for as many steps, on
the labels of the source alone. Then: errors on the teacher's test set, times of a step of dynamics
and drifts of the total energy without a thermostat. Runs that are in the folder already are not
repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from machine import describe_machine

import mtlpar
from mtlpar.cli import main as run_mtlpar
from mtlpar.core.error_names import ERROR_UNITS, MAE_NAMES
from mtlpar.evaluate.errors import predict_dataset, sums_of
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.finetune.learned import side_by_side
from mtlpar.model.file import load_model
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.export import iterate_atoms
from mtlpar.store.pack import Pack

STUDENTS = ("student", "alone")
TARGETS = "targets: errors of the student <= 1.15 of the teacher's and below those of the labels "
TARGETS += "alone; time of a step <= 0.25"


def train(folder: Path, options: argparse.Namespace, seed: int) -> None:
    """Distill a student into a folder, and train another one there on the labels alone."""
    source, model, packs = options.source, options.model.resolve(), options.packs.resolve()
    command = ["distill", str(model), "--source", source, "--packs", str(packs)]
    command += ["--dynamics", str(options.dynamics)]
    settings = [f"seed={seed}", f"train.epochs={options.epochs}"]
    command += ["--out", f"{folder}.pt", *(word for one in settings for word in ("--set", one))]
    alone = f"models.alone={{branches: {{{source}: [{source}]}}, train: {{epochs: "
    alone += f"{options.epochs}}}}}"
    if run_mtlpar(command):
        raise SystemExit("distill failed")
    with contextlib.chdir(folder):
        for stage in ("train", "evaluate"):
            if run_mtlpar([stage, "--model", "alone", "--set", alone]):
                raise SystemExit(f"{stage} failed")


def errors_of(path: Path, source: str, packs: Path) -> dict[str, float]:
    """Mean absolute errors of a model file on the test pack of a source."""
    model, dataset = load_model(path), PackedDataset(Pack.open(packs / source / "test.bp"))
    found = predict_dataset(
        model,
        dataset,
        model.branch_of(source),
        EvaluateSettings(),
        references=model.references[source],
    )
    named = sums_of(dataset, found).as_dict()
    return {label: named[name] for label, name in MAE_NAMES.items() if name in named}


def sizes(packs: Path, source: str) -> tuple[Atoms, Atoms]:
    """A large structure of the test pack, and copies of it beside one another."""
    with Pack.open(packs / source / "test.bp") as pack:
        one = max(iterate_atoms(pack.first(64), pack.header), key=len)
    return one, side_by_side(one)


def step_ms(path: Path, source: str, atoms: Atoms) -> float:
    """Time of a step of velocity Verlet that starts at 300 K; the best of ten pieces."""
    dynamics = _at_300_k(path, source, atoms, dtype=None)
    dynamics.run(3)
    steps = max(2, 400 // len(atoms))
    return min(_seconds(dynamics, steps) for _ in range(10)) / steps * 1e3


def _seconds(dynamics: VelocityVerlet, steps: int) -> float:
    # On its only thread: whatever else the machine does.
    started = time.process_time()
    dynamics.run(steps)
    return time.process_time() - started


def drift_mev_per_atom(path: Path, source: str, atoms: Atoms, picoseconds: float) -> float:
    """Largest change of the total energy in dynamics without a thermostat."""
    # Of the models, and not of rounding to float32.
    dynamics = _at_300_k(path, source, atoms, dtype=torch.float64)
    energies = [dynamics.atoms.get_total_energy()]
    for _ in range(20):
        dynamics.run(round(picoseconds * 1000 / 0.5 / 20))
        energies.append(dynamics.atoms.get_total_energy())
    return 1e3 * float(np.abs(np.array(energies) - energies[0]).max()) / len(atoms)


def _at_300_k(
    path: Path, source: str, atoms: Atoms, *, dtype: torch.dtype | None
) -> VelocityVerlet:
    moving = atoms.copy()
    moving.calc = mtlpar.Calculator(path, source=source, dtype=dtype)
    thermal = np.sqrt(moving.get_masses()[:, None] * units.kB * 300)
    moving.set_momenta(thermal * np.random.default_rng(0).normal(size=(len(moving), 3)))
    return VelocityVerlet(moving, timestep=0.5 * units.fs)


def print_errors(
    teacher: Mapping[str, float], runs: Sequence[Mapping[str, Mapping[str, float]]]
) -> None:
    """Print mean errors over the seeds, half their range, and their ratio to the teacher's."""
    heads = ("teacher", "student", "ratio", "labels alone", "ratio")
    print(f"\n{'mean absolute error on test':30}" + "".join(f"{head:>20}" for head in heads))
    for label, error in teacher.items():
        row = f"{label} ({ERROR_UNITS[label]})"
        cells = [f"{error:.4f}"]
        for name in ("student", "alone"):
            values = np.array([run[name][label] for run in runs])
            cells.append(f"{values.mean():.4f} ± {np.ptp(values) / 2:.4f}")
            cells.append(f"{values.mean() / error:.2f}")
        print(f"{row:30}" + "".join(f"{cell:>20}" for cell in cells))


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True, help="the teacher's model.pt")
    parser.add_argument("--source", required=True, help="source whose level of theory is taught")
    parser.add_argument("--packs", type=Path, required=True, help="folder with a folder per source")
    parser.add_argument("--work", type=Path, required=True, help="folder of everything")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of each student")
    parser.add_argument("--dynamics", type=int, default=200, help="structures of dynamics")
    parser.add_argument("--ps", type=float, default=1.0, help="length of the dynamics for drifts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source, packs, work = options.source, options.packs.resolve(), options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in range(options.seeds):
        folder = work / f"{source}-{seed}"
        note = folder / "results/benchmark.json"
        if not note.exists():
            train(folder, options, seed)
            models = {name: folder / f"results/models/{name}/model.pt" for name in STUDENTS}
            errors = {name: errors_of(path, source, packs) for name, path in models.items()}
            note.write_text(json.dumps(errors))
        found.append(json.loads(note.read_text()))
    print(describe_machine())
    print(TARGETS)
    print_errors(errors_of(options.model, source, packs), found)
    paths = {"teacher": options.model, "student": work / f"{source}-0.pt"}
    one, many = sizes(packs, source)
    for atoms in (one, many):
        times = [step_ms(path, source, atoms) for path in paths.values()]
        print(
            f"\n{len(atoms)} atoms, a step: teacher {times[0]:.2f} ms, student {times[1]:.2f} ms, "
            f"ratio {times[1] / times[0]:.2f}"
        )
    for who, path in paths.items():
        drift = drift_mev_per_atom(path, source, one, options.ps)
        print(f"{who}: total energy of {len(one)} atoms within {drift:.2f} meV/atom")


if __name__ == "__main__":
    main()
