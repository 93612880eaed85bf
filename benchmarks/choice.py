"""How often `mtlpar predict --source auto` chooses as one would who knows the answer.

Of every test structure it is known which source it comes from, and which of the branches that know
its elements has the smallest error of its forces, the oracle: forces of different levels of theory
can be compared, energies cannot. Run it where a model with several branches was trained:

    python benchmarks/choice.py results/models/mtl/model.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mtlpar.core.paths import Workspace
from mtlpar.evaluate.errors import FloatArray, predict_dataset
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.model.choice import SourceChooser
from mtlpar.model.file import load_model
from mtlpar.model.saved import SavedModel
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.export import iterate_atoms
from mtlpar.store.pack import Pack

BATCH_ATOMS = 4096


def main() -> None:
    """Print a line for each source."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="model.pt")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the packs")
    options = parser.parse_args()
    model = load_model(options.model)
    workspace = Workspace(raw=Path("none"), results=options.results)
    chooser = SourceChooser(model)
    print(
        f"{'test set':14}{'rows':>6}{'refused':>9}{'own source':>12}{'oracle':>8}{'chance':>8}   "
        "force MAE (eV/Å): chosen, own, oracle"
    )
    for source in model.sources:
        print(
            line_of(
                model, chooser, source, PackedDataset(Pack.open(workspace.pack(source, "test")))
            )
        )


def line_of(model: SavedModel, chooser: SourceChooser, source: str, dataset: PackedDataset) -> str:
    """Shares of a test set, and mean errors over what was not refused."""
    atoms = list(iterate_atoms(dataset.structures, dataset.header))
    choices = chooser.choose(atoms, batch_atoms=BATCH_ATOMS)
    errors = np.stack([force_errors(model, dataset, name) for name in model.sources], axis=1)
    for row, one in enumerate(atoms):
        for column, name in enumerate(model.sources):
            if model.refusal(one, source=name) is not None:
                errors[row, column] = np.inf
    kept = np.array([choice.source is not None for choice in choices])
    names = {name: column for column, name in enumerate(model.sources)}
    chosen = np.array([names[choice.source] for choice in choices if choice.source is not None])
    of_kept, rows = errors[kept], np.arange(int(kept.sum()))
    candidates = np.isfinite(of_kept).sum(axis=1)
    return (
        f"{source:14}{len(atoms):6}{(~kept).mean():9.1%}{(chosen == names[source]).mean():12.1%}"
        f"{(chosen == of_kept.argmin(axis=1)).mean():8.1%}{(1 / candidates).mean():8.1%}   "
        f"{of_kept[rows, chosen].mean():.4f}, {of_kept[:, names[source]].mean():.4f}, "
        f"{of_kept.min(axis=1).mean():.4f}"
    )


def force_errors(model: SavedModel, dataset: PackedDataset, source: str) -> FloatArray:
    """Mean absolute error of the force components of each structure by one branch, (S,)."""
    predicted = predict_dataset(
        model, dataset, model.branch_of(source), EvaluateSettings(), references=None
    )
    of_atoms = np.abs(predicted.forces - dataset.structures.forces).mean(axis=1)
    return np.add.reduceat(of_atoms, dataset.structures.offsets[:-1]) / dataset.structures.num_atoms


if __name__ == "__main__":
    main()
