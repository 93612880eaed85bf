"""What `mtlpar predict` takes beside the loader's and the model's own time, on one core.

The same structures of a pack are predicted in every round by the graphs and operations of
training, from memory and without gradients; by those of `predict_batches`, which are written out
for a CPU; and by the command's stage, which opens rows, checks them, adds references and writes
frames. The process keeps memory and sees garbage as the command's does. Ways alternate, so that
others on the machine slow all of them down alike: a ratio is the median of those of the rounds, a
rate the best.

    python benchmarks/predict.py results/models/mtl/model.pt results/packed/ani1x/train.bp
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mtlpar.graph.collate import collate
from mtlpar.model.file import load_model
from mtlpar.model.multitask import Segment
from mtlpar.model.predict import bounded_slices, predict_batches
from mtlpar.model.saved import SavedModel
from mtlpar.parallel.allocator import keep_freed_memory
from mtlpar.parallel.ranks import RankContext
from mtlpar.predict import stage
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack

BATCH_ATOMS = 4096


def main() -> None:
    """Print structures per second of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="model.pt")
    parser.add_argument("pack", type=Path, help="a pack of one of its sources")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    model, dataset = load_model(options.model), PackedDataset(Pack.open(options.pack))
    gc.freeze()
    source = dataset.header.source
    ways: dict[str, Callable[[], None]] = {
        "loader and model": lambda: own(model, dataset, source),
        "written out": lambda: written_out(model, dataset, source),
        "predict": lambda: command(model, options, stage.Wanted(source)),
        "predict --uncertainty": lambda: command(
            model, options, stage.Wanted(source, uncertainty=True)
        ),
        "predict --source auto": lambda: command(model, options, stage.Wanted("auto")),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds + 1):
        for name, run in ways.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    # The first round warms up.
    taken = {name: np.array(times[1:]) for name, times in seconds.items()}
    for name, times in taken.items():
        share = float(np.median(taken["loader and model"] / times))
        print(f"{name:24}{len(dataset) / times.min():10,.0f} structures/s{share:8.2f}")


def own(model: SavedModel, dataset: PackedDataset, source: str) -> None:
    """Predict from memory with the operations of training."""
    branch, structures = model.branch_of(source), dataset.structures
    for start, stop in bounded_slices(structures.num_atoms, BATCH_ATOMS):
        batch = collate(structures.slice(start, stop), model.settings.graph)
        with torch.no_grad():
            model.network(batch, [Segment(branch, 0, batch.num_graphs)])


def written_out(model: SavedModel, dataset: PackedDataset, source: str) -> None:
    """Predict from memory with the operations of the command."""
    for _ in predict_batches(
        model.network,
        dataset.structures,
        branch=model.branch_of(source),
        graph=model.settings.graph,
        batch_atoms=BATCH_ATOMS,
    ):
        pass


def command(model: SavedModel, options: argparse.Namespace, wanted: stage.Wanted) -> None:
    """Predict the pack as the command does, to a file."""
    with tempfile.TemporaryDirectory() as folder:
        stage.run(
            model,
            [options.pack],
            Path(folder) / "out.extxyz",
            wanted=wanted,
            model_file=options.model,
            context=RankContext(0, 1, torch.device("cpu")),
            batch_atoms=BATCH_ATOMS,
        )


if __name__ == "__main__":
    main()
