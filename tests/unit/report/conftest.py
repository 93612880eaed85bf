"""A made-up run: seven models, five test sets, and files as the other stages write them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.data import chemical_symbols

from mtlpar.core.files import read_json, write_json
from mtlpar.core.ledger import Ledger
from mtlpar.core.paths import Workspace
from mtlpar.core.products import ChecksRecord, LeaksRecord, MetricsRecord, ReferencesRecord
from mtlpar.core.records import write_content
from mtlpar.extract.findings import Findings
from mtlpar.report.items import Scope
from mtlpar.report.settings import ReportSettings

SOURCES = ("ani1x", "qm7x", "mptrj", "alexandria", "transition1x")
MODELS = {**{source: (source,) for source in SOURCES}, "baseline": SOURCES, "mtl": SOURCES}
ZERO_ENERGY = {
    "ani1x": 0.084,
    "qm7x": 0.112,
    "mptrj": 0.571,
    "alexandria": 0.489,
    "transition1x": 0.0961,
}
ZERO_FORCE = {
    "ani1x": 1.47,
    "qm7x": 1.16,
    "mptrj": 0.142,
    "alexandria": 0.0534,
    "transition1x": 0.381,
}
DROPPED = {
    "ani1x": {"duplicate": 12, "no_energy": 4870},
    "qm7x": {"duplicate": 3},
    "mptrj": {"force_above_limit": 1312, "duplicate": 35121, "element_not_in_train": 2},
    "alexandria": {"duplicate": 8011, "force_above_limit": 77, "no_forces": 1930},
    "transition1x": {},
}
ROWS = {
    "ani1x": 49_566,
    "qm7x": 41_953,
    "mptrj": 157_839,
    "alexandria": 104_121,
    "transition1x": 96_440,
}


@dataclass(frozen=True)
class FakeRun:
    """What the CLI passes to the stage, and the files it will find."""

    workspace: Workspace

    @property
    def scope(self) -> Scope:
        return Scope(
            workspace=self.workspace,
            settings=ReportSettings(dpi=100),
            models=MODELS,
            sources=SOURCES,
        )

    def change_metrics(self, model: str, source: str, /, **values: Any) -> Path:
        path = self.workspace.metrics(model, source)
        write_json(path, read_json(path) | values)
        return path


CRYSTALS = ("mptrj", "alexandria")


def _factor(model: str, source: str) -> float:
    if model == "mtl":
        return 0.11
    if model == "baseline":
        return 0.29
    return 0.13 if model == source else 1.6


def uncertainty_of(source: str) -> dict[str, Any]:
    """What metrics say of uncertainties that are half as large as they should be."""
    levels = [level / 20 for level in range(1, 20)]
    is_crystal = source in CRYSTALS
    return {
        "num_structures": 100,
        "levels": levels,
        "observed": [level**2 for level in levels],
        "coverage_90": 0.81,
        "mean_ev_per_atom": 0.02,
        "rank_correlation": 0.4,
        "auroc_group_never_seen": 0.71,
        "num_pair_never_seen": 12 if is_crystal else 0,
        "auroc_pair_never_seen": 0.55 if is_crystal else None,
    }


def _write_metrics(workspace: Workspace, rng: np.random.Generator) -> None:
    for source in SOURCES:
        zero = {
            "energy_mae_ev_per_atom": ZERO_ENERGY[source],
            "energy_rmse_ev_per_atom": 1.4 * ZERO_ENERGY[source],
            "force_mae_ev_per_angstrom": ZERO_FORCE[source],
            "force_rmse_ev_per_angstrom": 1.9 * ZERO_FORCE[source],
        }
        stresses = 80 if source in CRYSTALS else 0
        if stresses:
            zero["stress_mae_ev_per_cubic_angstrom"] = 0.03
            zero["stress_rmse_ev_per_cubic_angstrom"] = 0.05
        for model in MODELS:
            factor = _factor(model, source) * rng.uniform(0.8, 1.25)
            content = {
                "model": model,
                "source": source,
                "branch": source,
                "level_of_theory": "made up",
                "split_by": "groups",
                **{key: value * factor for key, value in zero.items()},
                "num_structures": 100,
                "num_atoms": 1500,
                "num_labels": {"energy": 100, "forces": 100, "stress": stresses},
                "zero_predictor": zero,
            }
            if source in MODELS[model]:
                content["uncertainty"] = uncertainty_of(source)
            write_content(workspace.metrics(model, source), MetricsRecord, content)


def _write_predictions(workspace: Workspace, rng: np.random.Generator) -> None:
    for source in SOURCES:
        structures = 2000 if source in ("ani1x", "mptrj") else 120
        energy = ZERO_ENERGY[source] * rng.laplace(size=structures)
        forces = (ZERO_FORCE[source] * rng.laplace(size=(6 * structures, 3))).astype(np.float32)
        for model in ("baseline", "mtl"):
            factor = _factor(model, source)
            path = workspace.predictions(model, source)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(
                path,
                energy_label_ev_per_atom=energy,
                energy_prediction_ev_per_atom=energy
                + factor * ZERO_ENERGY[source] * rng.laplace(size=energy.shape),
                force_label_ev_per_angstrom=forces,
                force_prediction_ev_per_angstrom=forces
                + factor * ZERO_FORCE[source] * rng.laplace(size=forces.shape),
                stress_label_ev_per_cubic_angstrom=0.03 * forces[:120],
                stress_prediction_ev_per_cubic_angstrom=0.02 * forces[:120],
            )


def _write_history(workspace: Workspace, rng: np.random.Generator) -> None:
    for model, trained_on in MODELS.items():
        lines: list[dict[str, Any]] = []
        epochs = 20 if model != "qm7x" else 14
        for epoch in range(epochs):
            decay = (0.15 + 0.85 * np.exp(-epoch / 4)) * rng.uniform(0.95, 1.05)
            factor = 0.5 if model == "mtl" else 1.0 if model == "baseline" else 0.7
            val = {
                source: {
                    "energy_mae_ev_per_atom": ZERO_ENERGY[source] * decay * factor,
                    "force_mae_ev_per_angstrom": ZERO_FORCE[source] * decay * factor,
                    **(
                        {"stress_mae_ev_per_cubic_angstrom": 0.03 * decay * factor}
                        if source in CRYSTALS
                        else {}
                    ),
                }
                for source in trained_on
            }
            lines.append({"kind": "step", "epoch": epoch, "step": epoch * 100, "loss": 1.0})
            lines.append(
                {
                    "kind": "epoch",
                    "epoch": epoch,
                    "step": epoch * 100,
                    "is_best": epoch <= epochs - 3,
                    "val": val,
                }
            )
        path = workspace.training_metrics(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _write_ledgers(workspace: Workspace) -> None:
    for source in SOURCES:
        dropped = Counter(DROPPED[source])
        kept = ROWS[source] - dropped.total()
        tenth = kept // 10
        splits = {"train": kept - 2 * tenth, "val": tenth, "test": tenth}
        of_file = Ledger(rows=ROWS[source], splits=splits, dropped=dropped)
        ledger = Ledger.total([of_file], files={f"{source}.raw": of_file})
        ledger.write(workspace.ledger(source))


def _write_quality(workspace: Workspace, rng: np.random.Generator) -> None:
    for source in SOURCES:
        work: dict[str, Any] = {"pairs": 5000, "slope": 1.01, "quartiles": [0.97, 1.04]}
        work["stress"] = {"pairs": 0, "slope": None, "quartiles": None}
        ingest = {
            **Findings().as_dict(),
            "structures": ROWS[source],
            "close_atoms": 3,
            "net_force": 12,
            "largest_net_force_ev_per_angstrom": 0.3,
            "largest_force_ev_per_angstrom": 87.5,
            "energy_work": work if source != "alexandria" else work | {"slope": None, "pairs": 2},
        }
        checks = {
            "source": source,
            "split_by": "groups",
            "contradicting_duplicates": 0,
            "contradicting_equivalents": 0,
            "in_several_splits": {"groups": 0, "structures": 0, "geometries": 0},
            "energy_outliers": {
                "limit_ev_per_atom": 1.6,
                "count": 7,
                "in_train": 5,
                "worst": [],
            },
            "ingest": ingest,
            "files": {f"{source}.raw": ingest},
        }
        write_content(workspace.checks(source), ChecksRecord, checks)
        symbols = ("H", "C", "N", "O") if source != "mptrj" else tuple(chemical_symbols[1:84])
        residuals = {
            "total_energy_rms_ev": 1.2,
            "robust_deviation_ev_per_atom": 0.08,
            "histogram": {
                "edges_ev_per_atom": np.linspace(-1, 1, 21).tolist(),
                "counts": rng.integers(1, 1000, 20).tolist(),
                "below": 1,
                "above": 2,
            },
        }
        references = {
            "source": source,
            "level_of_theory": "made up",
            "split_by": "groups",
            "leaky": False,
            "train_digest": "0" * 64,
            "energies_ev": {symbol: float(-10 - 40 * rng.random()) for symbol in symbols},
            "standard_errors_ev": {symbol: float(rng.random()) for symbol in symbols},
            "undetermined": ["C"],
            "fitted_on": "train",
            "taken_from": "fit",
            "num_structures": ROWS[source],
            "num_elements": len(symbols),
            "rank": len(symbols) - 1,
            "train_statistics": {"energy_rms_ev_per_atom": 0.11},
            "residuals": residuals,
        }
        write_content(workspace.references(source), ReferencesRecord, references)
    pairs = [
        {
            "train": train,
            "test": test,
            "test_structures": 100,
            "same_geometry": 0 if train == test else 4,
            "equivalent_geometry": 0 if train == test else 2,
            "same_composition": 17,
            "compositions": 1,
            "most_frequent": [{"formula": "C2H6O", "train": 5, "test": 6}],
        }
        for train in SOURCES
        for test in SOURCES
    ]
    leaks = {"sources": list(SOURCES), "pairs": pairs}
    write_content(workspace.leaks, LeaksRecord, leaks)


@pytest.fixture(scope="session")
def pristine_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    workspace = Workspace(raw=folder / "raw", results=folder / "results")
    rng = np.random.default_rng(0)
    _write_metrics(workspace, rng)
    _write_predictions(workspace, rng)
    _write_history(workspace, rng)
    _write_ledgers(workspace)
    _write_quality(workspace, rng)
    return workspace.results


@pytest.fixture(scope="session")
def fake_run_in(pristine_results: Path) -> Callable[[Path], FakeRun]:
    """Write such a run into a folder."""

    def write(folder: Path) -> FakeRun:
        workspace = Workspace(raw=folder / "raw", results=folder / "results")
        shutil.copytree(pristine_results, workspace.results, copy_function=shutil.copyfile)
        return FakeRun(workspace=workspace)

    return write


@pytest.fixture
def fake_run(fake_run_in: Callable[[Path], FakeRun], tmp_path: Path) -> FakeRun:
    return fake_run_in(tmp_path)
