"""Errors of models at equal steps: multi-task, pooled, single-source, the paper's own, and PaiNN.

    python benchmarks/accuracy.py --work FOLDER

Computes a sample of about 20,000 structures of the five sources, brings it through the stages up to
the packs, trains every variant below on it with one seed and one objective, and prints test errors.
Sample, packs and finished variants stay in the folder, so an interrupted run continues. Costs are
seconds of processor time of one thread: other work on the machine hardly changes them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from paper_variant import PaperModel
from tqdm import tqdm

from mtlpar.config import Config, load_config
from mtlpar.core.files import read_json, write_json
from mtlpar.core.metrics import ErrorSums
from mtlpar.model.multitask import MultiTaskModel, count_parameters
from mtlpar.model.predict import predict_batches
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.ranks import RankContext
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack
from mtlpar.train.checkpoint import CheckpointFolder, model_state
from mtlpar.train.data import load_data, plan_epochs, target_scale
from mtlpar.train.history import History
from mtlpar.train.stopping import StopRequest
from mtlpar.train.trainer import Trainer

# Structures to ask of every source's generator, which makes somewhat more molecules and fewer
# crystals: as many frames of crystals as of the largest molecular source; a relaxed crystal takes
# seconds.
ASKED = {"ani1x": 4300, "qm7x": 3700, "transition1x": 4000, "mptrj": 8600, "alexandria": 600}
SOURCES = ("ani1x", "qm7x", "mptrj", "alexandria", "transition1x")
EACH = {source: (source,) for source in SOURCES}
ENERGY, FORCE = "energy_mae_ev_per_atom", "force_mae_ev_per_angstrom"


@dataclass(frozen=True)
class Variant:
    """A training.

    Attributes:
        branches: Sources by branch.
        changes: Keys of the config that differ from the default.
        network: Class of the network.
        epochs: Share of the epochs.
    """

    branches: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: EACH)
    changes: Sequence[str] = ()
    network: type[MultiTaskModel] = MultiTaskModel
    epochs: float = 1.0


CONSERVATIVE = ("model.head.forces=conservative",)
PAINN = ("model.encoder.kind=painn", *CONSERVATIVE)
VARIANTS = {
    "mtl": Variant(),
    "baseline": Variant({"all": SOURCES}),
    **{source: Variant({source: (source,)}) for source in SOURCES},
    "paper": Variant(network=PaperModel),
    # An epoch of PaiNN takes about five times as long: beside `mtl` the short training has as much
    # time. In longer ones it diverges at the default rate.
    "painn_short": Variant(changes=PAINN, epochs=0.25),
    "painn_half": Variant(changes=(*PAINN, "train.learning_rate=2.5e-3"), epochs=0.5),
    "mtl_half": Variant(epochs=0.5),
    "conservative_half": Variant(changes=CONSERVATIVE, epochs=0.5),
}

# Two variants and the largest ratios of their force and energy errors that are good enough.
COMPARISONS = (
    ("mtl", "paper", 0.25, 0.5),
    ("mtl", "painn_short", 1.0, 1.0),
    ("mtl_half", "painn_half", 1.1, 1.1),
    ("conservative_half", "painn_half", 1.1, 1.1),
    ("mtl", "baseline", 1.0, 1.0),
    *(("mtl", source, 1.0, 1.0) for source in SOURCES),
)


def prepare(work: Path, seed: int) -> None:
    """Compute the sample and bring it through the stages up to the packs."""
    config = settings_of(work, Variant(), seed)
    for source, asked in ASKED.items():
        if not (work / "sample" / source).is_dir():
            options = ["--out", work / "sample", "--structures", asked, "--source", source]
            _run("tools.sample", *options, "--seed", seed, "--jobs", 2)
        if config.workspace.pack(source, "test").exists():
            continue
        for stage in ("download", "extract", "normalize", "pack"):
            changed = [word for change in _paths(work, seed) for word in ("--set", change)]
            _run("mtlpar", stage, *changed, "--source", source)


def settings_of(work: Path, variant: Variant, seed: int) -> Config:
    """The project's default config with the changes of a variant."""
    root = Path(__file__).resolve().parent.parent
    return load_config([root / "config.yaml"], [*_paths(work, seed), *variant.changes])


def train(name: str, work: Path, *, variant: Variant, epochs: int, seed: int) -> dict[str, Any]:
    """Train one variant on one thread and test it."""
    torch.set_num_threads(1)
    config = settings_of(work, variant, seed)
    epochs = max(1, round(epochs * variant.epochs))
    settings = config.train.model_copy(update={"epochs": epochs, "patience_epochs": None})
    context = RankContext(0, 1, torch.device("cpu"))
    layout = ParallelLayout(1, dict.fromkeys(variant.branches, (0,)))
    branch_of = {source: name for name in variant.branches for source in variant.branches[name]}
    packs = {source: Pack.open(config.workspace.pack(source, "train")) for source in branch_of}
    headers = {source: pack.header for source, pack in packs.items()}
    data = load_data(
        config.workspace,
        packs,
        branch_of,
        plan_epochs(headers, settings, seed=seed),
        layout=layout,
        rank=0,
        device=context.device,
        settings=settings,
        model_settings=config.model,
    )
    network = variant.network(config.model, variant.branches, seed=seed)
    if variant.network is MultiTaskModel:
        network.set_scales({b: target_scale(headers, s) for b, s in variant.branches.items()})
    checkpoints = CheckpointFolder(work / "checkpoints" / name, rank=0, keep=1)
    trainer = Trainer(
        network,
        data,
        layout=layout,
        context=context,
        settings=settings,
        checkpoints=checkpoints,
        stop=StopRequest(None),
    )
    history = History(checkpoints.folder / "metrics.jsonl", rank=0, resume_step=0)
    started = time.process_time()
    progress = trainer.run(history)
    seconds = time.process_time() - started
    history.close()
    average = trainer.train_step.average
    best = average.model if average else network
    state = model_state(best, prefix="average" if average else "model")
    checkpoints.load(state, progress.best_step, alone=True)
    return {
        "epochs": epochs,
        "steps": progress.step,
        "cpu_seconds": seconds,
        "parameters": count_parameters(best),
        "test": test(best, config, branch_of),
    }


def test(
    network: MultiTaskModel, config: Config, branch_of: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Errors on the test sets of the sources a network was trained on."""
    network.eval()
    errors = {}
    for source, branch in branch_of.items():
        dataset = PackedDataset(Pack.open(config.workspace.pack(source, "test")))
        sums = ErrorSums()
        for part in predict_batches(
            network, dataset.structures, branch=branch, graph=config.model.graph, batch_atoms=4096
        ):
            sums.add(
                dataset.structures.slice(part.structures.start, part.structures.stop),
                energy_error_ev_per_atom=part.energy_per_atom
                - dataset.target_ev_per_atom[part.structures],
                forces=part.forces,
            )
        errors[source] = {**sums.as_dict(), "num_structures": float(len(dataset))}
    return errors


def train_missing(work: Path, names: Sequence[str], *, epochs: int, seed: int, jobs: int) -> None:
    """Train what has no result yet, some at a time, each in a process of its own."""
    missing = [name for name in names if not _result(work, name).exists()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        task = partial(_train_to_file, work, epochs, seed)
        for _ in tqdm(pool.map(task, missing), total=len(missing), unit=" variant"):
            pass


def _train_to_file(work: Path, epochs: int, seed: int, name: str) -> None:
    result = train(name, work, variant=VARIANTS[name], epochs=epochs, seed=seed)
    write_json(_result(work, name), result)


def print_table(results: Mapping[str, Mapping[str, Any]], task: str) -> None:
    """One row per variant, one column per source; the single-source models share a row."""
    singles: dict[str, Any] = {"test": {}, "cpu_seconds": 0.0}
    rows: dict[str, Mapping[str, Any]] = {}
    for name, result in results.items():
        if name in SOURCES:
            singles["test"] |= result["test"]
            singles["cpu_seconds"] += result["cpu_seconds"]
            rows["one source each"] = singles
        else:
            rows[name] = result
    print(f"\n{task:<26s}" + "".join(f"{source:>14s}" for source in SOURCES) + "     CPU s")
    for name, result in rows.items():
        cells = [result["test"].get(source, {}).get(task) for source in SOURCES]
        text = "".join("             -" if cell is None else f"{cell:14.4f}" for cell in cells)
        print(f"{name:<26s}{text}{result['cpu_seconds']:10.0f}")


def print_ratios(results: Mapping[str, Mapping[str, Any]]) -> None:
    """The multi-task model beside each of the others, on the sources of both."""
    for ours, other, force_target, energy_target in COMPARISONS:
        if not {ours, other} <= set(results):
            continue
        for task, target in ((ENERGY, energy_target), (FORCE, force_target)):
            ratios = {
                source: results[ours]["test"][source][task] / errors[task]
                for source, errors in results[other]["test"].items()
            }
            text = "  ".join(f"{source} {ratio:.2f}" for source, ratio in ratios.items())
            what = f"{ours} / {other}, {task.split('_')[0]}"
            print(f"ratio  {what:<32s} {text}  (target <= {target})")


def _paths(work: Path, seed: int) -> list[str]:
    return [
        f"seed={seed}",
        f"paths.raw={work / 'raw'}",
        f"paths.results={work / 'results'}",
        f"download.mirrors=[{work / 'sample'}]",
    ]


def _run(module: str, *words: object) -> None:
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-m", module, *map(str, words)], check=True, cwd=root)


def _result(work: Path, name: str) -> Path:
    return work / "trained" / f"{name}.json"


def main() -> None:
    """Prepare, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for everything")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the data")
    parser.add_argument("--seed", type=int, default=7, help="seed of everything random")
    parser.add_argument("--jobs", type=int, default=2, help="variants trained at a time")
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    work = options.work.resolve()
    prepare(work, options.seed)
    train_missing(
        work, options.variant, epochs=options.epochs, seed=options.seed, jobs=options.jobs
    )
    results = {
        name: read_json(_result(work, name)) for name in VARIANTS if _result(work, name).exists()
    }
    print(describe_machine())
    for task in (ENERGY, FORCE):
        print_table(results, task)
    print_ratios(results)
    print(json.dumps({name: result["steps"] for name, result in results.items()}))


if __name__ == "__main__":
    main()
