"""What training on stress is worth: errors of stress, lattice constant and bulk modulus.

    python benchmarks/stress.py --work FOLDER --start MODEL

Trains conservative models on the MPtrj of the embedded sample with and without the stress in the
objective, with the same seeds and steps. Then scales held-out crystals near their equilibrium: a
cubic polynomial through the energies of seven volumes has a minimum and a curvature there, for each
model and for the method of the labels itself (GFN1-xTB, package tblite). Prints mean absolute
errors and their ratios, with over without. Finished trainings stay in the folder. A model to start
from must have held out the same quarter of the groups, as `five` of `benchmarks/ccsd.py` has with
the same seed: its path may have a {seed}, as in `ccsd/seed-{seed}/models/five/model.pt`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
import yaml
from ase import Atoms
from machine import describe_machine
from tblite.ase import TBLite

import mtlpar
from mtlpar.cli import main as mtlpar_command
from mtlpar.core.files import read_json
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack

REPOSITORY: Final = Path(__file__).resolve().parents[1]
EV_PER_CUBIC_ANGSTROM_GPA: Final = 160.21766208
STRAINS: Final = np.linspace(-0.03, 0.03, 7)
SOURCE: Final = "mptrj"
METRICS: Final = {
    "stress (eV/Å^3)": "stress_mae_ev_per_cubic_angstrom",
    "energy (eV/atom)": "energy_mae_ev_per_atom",
    "forces (eV/Å)": "force_mae_ev_per_angstrom",
}
LATTICE, MODULUS = "lattice constant (relative)", "bulk modulus (GPa)"
WITH, WITHOUT = "with stress", "without"


def train(work: Path, seed: int, epochs: int, start: Path | None) -> dict[str, Path]:
    """Models with and without stress in the objective, by name."""
    results = work / f"seed-{seed}"
    conservative = {"head": {"forces": "conservative"}}
    common = {"branches": {SOURCE: [SOURCE]}, "model": conservative}
    if start is not None:
        common["start_from"] = {"model": str(start)}
    without = {"train": {"stress_weight": 0}}
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    config |= {
        "seed": seed,
        "sources": [SOURCE],
        "paths": {"raw": str(work / "raw"), "results": str(results)},
        "models": {
            "stress": common,
            "none": {**common, **without},
        },
    }
    config["normalize"]["test_fraction"] = 0.25
    config["download"]["mirrors"] = [str(REPOSITORY / "workflow" / "sample")]
    config["train"] |= {"epochs": epochs, "learning_rate": 2e-3}
    path = work / f"seed-{seed}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    if not (results / "packed" / SOURCE / "test.manifest.json").is_file():
        for stage in ("download", "extract", "normalize", "pack"):
            _call(stage, path)
    for model in ("stress", "none"):
        if not (results / "metrics" / model / f"{SOURCE}.json").is_file():
            _call("train", path, "--model", model)
            _call("evaluate", path, "--model", model)
    return {WITH: results / "models/stress/model.pt", WITHOUT: results / "models/none/model.pt"}


def _call(command: str, config: Path, *more: str) -> None:
    if mtlpar_command([command, *more, "--config", str(config)]):
        raise SystemExit(f"{command} failed")


def crystals(pack: Path, most: int) -> list[Atoms]:
    """Of each held-out material the frame with the smallest stress."""
    structures = PackedDataset(Pack.open(pack)).structures
    size = np.abs(structures.stress[:, :3]).max(axis=1)
    found = []
    for group in np.unique(structures.group)[:most]:
        rows = np.flatnonzero(structures.group == group)
        row = int(rows[np.argmin(size[rows])])
        atoms = slice(structures.offsets[row], structures.offsets[row + 1])
        found.append(
            Atoms(
                numbers=structures.atomic_numbers[atoms],
                positions=structures.positions[atoms],
                cell=structures.cell[row],
                pbc=True,
            )
        )
    return found


def equilibrium(atoms: Atoms, energy: Callable[[Atoms], float]) -> tuple[float, float] | None:
    """Length at the minimum over that of the cell, and bulk modulus in GPa, V d2E/dV2.

    None if the volumes looked at have no minimum between them.
    """
    volumes, energies = [], []
    for strain in STRAINS:
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell.array * (1 + strain), scale_atoms=True)
        volumes.append(scaled.get_volume())
        energies.append(energy(scaled))
    scale = atoms.get_volume()
    curve = np.polynomial.Polynomial.fit(np.divide(volumes, scale), energies, 3).convert()
    slope, curvature = curve.deriv(), curve.deriv(2)
    inside = (min(volumes) / scale, max(volumes) / scale)
    for root in slope.roots():
        if abs(root.imag) < 1e-9 and inside[0] < root.real < inside[1] and curvature(root.real) > 0:
            volume = float(root.real)
            modulus = volume * float(curvature(volume)) / scale * EV_PER_CUBIC_ANGSTROM_GPA
            return volume ** (1 / 3), modulus
    return None


def compare(
    models: Mapping[str, Path], chosen: Sequence[Atoms]
) -> tuple[dict[str, dict[str, float]], int]:
    """Mean errors of lattice constant and bulk modulus by model, and how many crystals count."""
    # As the sample's crystals are labelled.
    method = TBLite(
        method="GFN1-xTB",
        accuracy=0.2,
        electronic_temperature=1000.0,
        max_iterations=90,
        verbosity=0,
    )
    truths = [equilibrium(atoms, method.get_potential_energy) for atoms in chosen]
    found = {}
    for name, path in models.items():
        calculator = mtlpar.Calculator(path, source=SOURCE)
        found[name] = [equilibrium(atoms, calculator.get_potential_energy) for atoms in chosen]
    errors: dict[str, dict[str, float]] = {}
    counted = [
        index
        for index, truth in enumerate(truths)
        if truth is not None and all(values[index] is not None for values in found.values())
    ]
    for name, values in found.items():
        pairs = [(values[index], truths[index]) for index in counted]
        missing = sum(value is None for value in values)
        print(f"  {name}: no minimum within 3 % for {missing} of {len(chosen)} crystals")
        lengths = [abs(got[0] / true[0] - 1) for got, true in pairs if got and true]
        moduli = [abs(got[1] - true[1]) for got, true in pairs if got and true]
        errors[name] = {LATTICE: float(np.mean(lengths)), MODULUS: float(np.mean(moduli))}
    return errors, len(counted)


def main() -> None:
    """Run what is not in the folder yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of everything")
    parser.add_argument("--start", help="model.pt of direct forces to start from, with {seed}")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--epochs", type=int, default=10, help="of each training")
    parser.add_argument("--crystals", type=int, default=16, help="how many to scale")
    options = parser.parse_args()
    work = options.work.resolve()
    start = options.start and str(Path(options.start).resolve())
    work.mkdir(parents=True, exist_ok=True)
    # A config.yaml of the present folder would lie below the settings of the experiments.
    os.chdir(work)
    torch.set_num_threads(1)
    print(describe_machine())
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.seeds):
        path = None if start is None else Path(start.format(seed=seed))
        models = train(work, seed, options.epochs, path)
        results = work / f"seed-{seed}"
        metrics = {
            WITH: read_json(results / f"metrics/stress/{SOURCE}.json"),
            WITHOUT: read_json(results / f"metrics/none/{SOURCE}.json"),
        }
        for title, key in METRICS.items():
            rows.setdefault(title, []).append((metrics[WITH][key], metrics[WITHOUT][key]))
        chosen = crystals(results / "packed" / SOURCE / "test.bp", options.crystals)
        errors, count = compare(models, chosen)
        print(f"  seed {seed}: {count} crystals counted")
        for title in (LATTICE, MODULUS):
            rows.setdefault(title, []).append((errors[WITH][title], errors[WITHOUT][title]))
    print(f"\n{'':30}{WITH:>12}{WITHOUT:>12}   ratio")
    for title, pairs in rows.items():
        with_it, without = np.mean(pairs, axis=0)
        ratios = np.array([one / other for one, other in pairs])
        spread = f" ({ratios.min():.2f} to {ratios.max():.2f})" if len(ratios) > 1 else ""
        print(f"{title:30}{with_it:12.4f}{without:12.4f}   {ratios.mean():.2f}{spread}")


if __name__ == "__main__":
    main()
