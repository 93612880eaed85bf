"""What training on stress is worth: errors of stress, lattice constant and bulk modulus.

    python benchmarks/stress.py --work FOLDER --seeds 3

Trains a model with direct forces on the MPtrj of the embedded sample, a quarter of whose materials
are held out, and finishes it with conservative forces, with and without the stress in the
objective. Prints test errors and their ratios, with over without.

Then scales held-out crystals by up to 6 %: a cubic polynomial through the energies of the five
volumes around the lowest has a minimum and a curvature there, for each model and for the method of
the labels (GFN1-xTB, package tblite). Crystals of all seeds that have a minimum by the method of
the labels count; a model that has none there is infinitely far off, and medians say so. Finished
trainings stay in the folder.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from machine import describe_machine
from scipy.stats import binomtest, bootstrap
from tblite.ase import TBLite

import mtlpar
from mtlpar.cli import main as mtlpar_command
from mtlpar.core.files import read_json, write_json
from mtlpar.core.yaml_text import dump_yaml, load_yaml
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack

REPOSITORY: Final = Path(__file__).resolve().parents[1]
EV_PER_CUBIC_ANGSTROM_GPA: Final = 160.21766208
STRAINS: Final = np.linspace(-0.06, 0.06, 7)
SOURCE: Final = "mptrj"
METRICS: Final = {
    "stress (eV/Å^3)": "stress_mae_ev_per_cubic_angstrom",
    "energy (eV/atom)": "energy_mae_ev_per_atom",
    "forces (eV/Å)": "force_mae_ev_per_angstrom",
}
LATTICE, MODULUS = "lattice constant (relative)", "bulk modulus (GPa)"
WITH, WITHOUT = "with stress", "without"
Errors = dict[str, dict[str, list[float]]]
"""Errors of each crystal by model and title."""


def train(work: Path, seed: int, epochs: int) -> dict[str, Path]:
    """Models with and without stress in the objective, by name."""
    results = work / f"seed-{seed}"
    common = {
        "branches": {SOURCE: [SOURCE]},
        "model": {"head": {"forces": "conservative"}},
        "start_from": {"model": "direct"},
        "train": {"epochs": epochs, "learning_rate": 2e-3},
    }
    config = load_yaml((REPOSITORY / "config.yaml").read_text())
    config |= {
        "seed": seed,
        "sources": [SOURCE],
        "paths": {"raw": str(work / "raw"), "results": str(results)},
        "models": {
            "direct": {"branches": {SOURCE: [SOURCE]}},
            "stress": common,
            "none": {**common, "train": {**common["train"], "stress_weight": 0}},
        },
    }
    config["normalize"]["test_fraction"] = 0.25
    config["download"]["mirrors"] = [str(REPOSITORY / "workflow" / "sample")]
    path = work / f"seed-{seed}.yaml"
    path.write_text(dump_yaml(config))
    if not (results / "packed" / SOURCE / "test.manifest.json").is_file():
        for stage in ("download", "extract", "normalize", "pack"):
            _call(stage, path)
    for model in config["models"]:
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
        volumes.append(atoms.get_volume() * (1 + strain) ** 3)
        energies.append(energy(scaled(atoms, strain)))
    lowest = int(np.argmin(energies))
    if lowest in (0, len(energies) - 1):
        return None
    # Five volumes around the lowest one: the equation of state has no simple form over all.
    near = slice(max(0, lowest - 2), lowest + 3)
    scale = atoms.get_volume()
    curve = np.polynomial.Polynomial.fit(np.divide(volumes, scale)[near], energies[near], 3)
    slope, curvature = curve.deriv(), curve.deriv(2)
    first, last = np.divide(volumes, scale)[[lowest - 1, lowest + 1]]
    for root in slope.roots():
        if abs(root.imag) < 1e-9 and first < root.real < last and curvature(root.real) > 0:
            volume = float(root.real)
            modulus = volume * float(curvature(volume)) / scale * EV_PER_CUBIC_ANGSTROM_GPA
            return volume ** (1 / 3), modulus
    return None


def scaled(atoms: Atoms, strain: float) -> Atoms:
    """A crystal with lengths changed by a share."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array * (1 + strain), scale_atoms=True)
    return copy


def by_labels(atoms: Atoms) -> tuple[float, float] | None:
    """`equilibrium` by the method that labelled the sample's crystals.

    None also if the crystal as it is lies no lower than both ends, which three energies say, and if
    the method does not converge.
    """
    method = TBLite(
        method="GFN1-xTB",
        accuracy=0.2,
        electronic_temperature=1000.0,
        max_iterations=90,
        verbosity=0,
    )
    try:
        here, *ends = (
            method.get_potential_energy(scaled(atoms, s)) for s in (0, *STRAINS[[0, -1]])
        )
        return equilibrium(atoms, method.get_potential_energy) if here < min(ends) else None
    except CalculationFailed:
        return None


def compare(models: Mapping[str, Path], chosen: Sequence[Atoms], note: Path) -> Errors:
    """Errors of lattice constants and bulk moduli by model, of crystals that have a minimum.

    They have one by the method of the labels. A model that has none is infinitely far off.

    Args:
        models: Model files by name.
        chosen: Crystals.
        note: Where results of the method of the labels are kept.
    """
    if not note.exists():
        write_json(note, [by_labels(atoms) for atoms in chosen])
    known = [(atoms, *truth) for atoms, truth in zip(chosen, read_json(note), strict=True) if truth]
    print(f"  {len(known)} of {len(chosen)} crystals have a minimum by the method of the labels")
    errors: Errors = {}
    for name, path in models.items():
        calculator = mtlpar.Calculator(path, source=SOURCE)
        errors[name] = {LATTICE: [], MODULUS: []}
        for atoms, length, modulus in known:
            found = equilibrium(atoms, calculator.get_potential_energy) or (np.inf, np.inf)
            errors[name][LATTICE].append(abs(found[0] / length - 1))
            errors[name][MODULUS].append(abs(found[1] - modulus))
    return errors


def print_equilibria(errors: Errors) -> None:
    """Print shares of crystals with a minimum and median errors, with intervals of 95 %."""
    count = len(errors[WITH][LATTICE])
    print(f"\nof {count} held-out crystals with a minimum by the method of the labels")
    for name, by_title in errors.items():
        has_one = np.isfinite(by_title[LATTICE])
        share = binomtest(int(has_one.sum()), count).proportion_ci(method="wilson")
        print(f"{name}: {has_one.sum()} have one ({share.low:.2f} to {share.high:.2f} of them)")
        for title, values in by_title.items():
            # Medians of resamples may be infinite, and so have no standard error.
            with np.errstate(invalid="ignore"):
                low, high = bootstrap(
                    (values,), np.median, method="percentile", rng=np.random.default_rng(0)
                ).confidence_interval
            print(f"  median error of {title}: {np.median(values):.4g} ({low:.4g} to {high:.4g})")
    for title in (LATTICE, MODULUS):
        ours, theirs = errors[WITH][title], errors[WITHOUT][title]
        nearer, farther = int(np.sum(np.less(ours, theirs))), int(np.sum(np.less(theirs, ours)))
        chance = binomtest(nearer, nearer + farther).pvalue
        print(f"{title}: nearer with stress {nearer}, without {farther}; sign test {chance:.2g}")


def main() -> None:
    """Run what is not in the folder yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of everything")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--epochs", type=int, default=6, help="of conservative forces")
    parser.add_argument("--crystals", type=int, default=1000, help="how many to scale, at most")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    # A config.yaml of the present folder would lie below the settings of the experiments.
    os.chdir(work)
    torch.set_num_threads(1)
    print(describe_machine())
    rows: dict[str, list[tuple[float, float]]] = {}
    all_errors: Errors = {name: {LATTICE: [], MODULUS: []} for name in (WITH, WITHOUT)}
    for seed in range(options.seeds):
        models = train(work, seed, options.epochs)
        results = work / f"seed-{seed}"
        metrics = {
            WITH: read_json(results / f"metrics/stress/{SOURCE}.json"),
            WITHOUT: read_json(results / f"metrics/none/{SOURCE}.json"),
        }
        for title, key in METRICS.items():
            rows.setdefault(title, []).append((metrics[WITH][key], metrics[WITHOUT][key]))
        chosen = crystals(results / "packed" / SOURCE / "test.bp", options.crystals)
        print(f"seed {seed}")
        for name, errors in compare(models, chosen, results / "equilibria.json").items():
            for title, values in errors.items():
                all_errors[name][title] += values
    print(f"\n{'':30}{WITH:>12}{WITHOUT:>12}   ratio")
    for title, pairs in rows.items():
        with_it, without = np.mean(pairs, axis=0)
        ratios = np.array([one / other for one, other in pairs])
        spread = f" ({ratios.min():.2f} to {ratios.max():.2f})" if len(ratios) > 1 else ""
        print(f"{title:30}{with_it:12.4f}{without:12.4f}   {ratios.mean():.2f}{spread}")
    print_equilibria(all_errors)


if __name__ == "__main__":
    main()
