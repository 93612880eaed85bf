"""Whether the uncertainty of a branch knows pairs of elements that it never saw together.

    python benchmarks/uncertainty.py --results results --work FOLDER

For each source and several pairs of elements, all structures that hold both are left out of
training, with others of groups that are left out too. A model is trained on the rest, and errors
and uncertainties of both kinds of test structures are compared: the ratio of their errors says
whether there is something to know, the area under the receiver operating characteristic whether the
uncertainty knows it (0.5 is chance). Finished trainings stay in the folder, so an interrupted run
continues.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from ase.io import write
from machine import describe_machine

from mtlpar.cli import main as mtlpar
from mtlpar.core.fields import SPLITS
from mtlpar.core.paths import Workspace
from mtlpar.core.yaml_text import dump_yaml, load_yaml
from mtlpar.evaluate.uncertainty import auroc
from mtlpar.model.file import load_model
from mtlpar.model.uncertainty import COVERAGE
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.export import iterate_atoms
from mtlpar.store.pack import Pack

REPOSITORY: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = "own"
SHARES: Final = (0.02, 0.2)
"""Of a source's structures, how many may hold a pair: to be tested on, and to leave enough."""
KNOWN: Final = 0.15
VALIDATED: Final = 0.1


def structures_of(results: Path, source: str) -> list[Atoms]:
    """All structures of a source with their labels, from its packs."""
    workspace = Workspace(raw=Path("none"), results=results)
    frames: list[Atoms] = []
    for split in SPLITS:
        dataset = PackedDataset(Pack.open(workspace.pack(source, split)))
        frames += iterate_atoms(dataset.structures, dataset.header)
    return frames


def pairs_of(frames: Sequence[Atoms], most: int) -> list[tuple[str, str]]:
    """Pairs of elements that can be left out, the commonest first, each element once.

    Either element must stay in training with others: an unknown element is refused, not doubted.
    """
    present = [frozenset(atoms.symbols) for atoms in frames]
    of_elements = Counter(symbol for symbols in present for symbol in symbols)
    of_pairs = Counter(pair for symbols in present for pair in combinations(sorted(symbols), 2))
    low, high = (share * len(frames) for share in SHARES)
    chosen: list[tuple[str, str]] = []
    for pair, count in of_pairs.most_common():
        stays = all(of_elements[symbol] - count >= low for symbol in pair)
        if low <= count <= high and stays and not {*pair} & {*sum(chosen, ())}:
            chosen.append(pair)
    return chosen[:most]


def write_splits(folder: Path, frames: Sequence[Atoms], pair: tuple[str, str], seed: int) -> None:
    """Deal groups without the pair to train, val and test; those with it go to tests."""
    rng = np.random.default_rng(seed)
    has_pair = [{*pair} <= {*atoms.symbols} for atoms in frames]
    groups = sorted(
        {atoms.info["group_id"] for atoms, has in zip(frames, has_pair, strict=True) if not has}
    )
    dealt = dict(zip(rng.permutation(groups), np.linspace(0, 1, len(groups)), strict=True))
    parts: dict[str, list[Atoms]] = {split: [] for split in SPLITS}
    for atoms, has in zip(frames, has_pair, strict=True):
        place = 0.0 if has else dealt.get(atoms.info["group_id"], 0.0)
        of = "test" if place < KNOWN else "val" if place < KNOWN + VALIDATED else "train"
        parts[of].append(atoms)
    for split, part in parts.items():
        write(folder / f"{split}.extxyz", part, format="extxyz")


def configuration(seed: int, epochs: int) -> dict[str, Any]:
    """The default model and training on the files of the present folder."""
    config = load_yaml((REPOSITORY / "config.yaml").read_text())
    own = {
        "files": ["*.extxyz"],
        "level_of_theory": "that of the source",
        "group_key": "group_id",
        "splits": {split: [f"{split}.extxyz"] for split in SPLITS},
        "mirrors": ["."],
    }
    return {
        "seed": seed,
        "sources": [SOURCE],
        "custom_sources": {SOURCE: own},
        "model": config["model"],
        "train": {**config["train"], "epochs": epochs, "patience_epochs": None},
        "models": {SOURCE: {"branches": {SOURCE: [SOURCE]}}},
    }


def measure(
    folder: Path, frames: Sequence[Atoms], pair: tuple[str, str], *, seed: int, epochs: int
) -> dict[str, float]:
    """Train without a pair, and compare test structures that hold it with those that do not."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        if not Path("results/models", SOURCE, "model.pt").exists():
            write_splits(folder, frames, pair, seed)
            Path("config.yaml").write_text(dump_yaml(configuration(seed, epochs)))
            for stage in ("download", "extract", "normalize", "pack"):
                _call(stage, "--source", SOURCE)
            _call("train", "--model", SOURCE)
        model = load_model(Path("results/models", SOURCE, "model.pt"))
        test = structures_of(Path("results"), SOURCE)
        test = [atoms for atoms in test if atoms.info["split"] == "test"]
    has_pair = np.array([{*pair} <= {*atoms.symbols} for atoms in test])
    found = model.predict(test, uncertainty=True)
    sizes = np.array([len(atoms) for atoms in test])
    labels = np.array([atoms.get_potential_energy() for atoms in test])
    error = np.abs([one.energy for one in found] - labels) / sizes
    sigma = np.array([one.energy_uncertainty for one in found]) / sizes
    width = NormalDist().inv_cdf((1 + COVERAGE) / 2)
    return {
        "tested": float(has_pair.sum()),
        "ratio of errors": error[has_pair].mean() / error[~has_pair].mean(),
        "ratio of uncertainties": sigma[has_pair].mean() / sigma[~has_pair].mean(),
        "within, known": float((error <= width * sigma)[~has_pair].mean()),
        "within, pair": float((error <= width * sigma)[has_pair].mean()),
        "AUROC": auroc(sigma[has_pair], sigma[~has_pair]) or float("nan"),
    }


def _call(*words: str) -> None:
    if mtlpar(words):
        raise SystemExit(f"{' '.join(words)} failed in {Path.cwd()}")


def lines(
    results: Path, work: Path, sources: Sequence[str], *, pairs: int, seeds: int, epochs: int
) -> Iterator[str]:
    """A line for each source and pair: means over seeds, and the range of the area."""
    for source in sources:
        frames = structures_of(results, source)
        for pair in pairs_of(frames, pairs):
            runs = [
                measure(
                    work / f"{source}-{'-'.join(pair)}-{seed}",
                    frames,
                    pair,
                    seed=seed,
                    epochs=epochs,
                )
                for seed in range(seeds)
            ]
            mean = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
            areas = [run["AUROC"] for run in runs]
            yield (
                f"{source:14}{'-'.join(pair):7}{mean['tested']:7.0f}"
                f"{mean['ratio of errors']:12.2f}{mean['ratio of uncertainties']:16.2f}"
                f"{mean['within, known']:11.0%}{mean['within, pair']:8.0%}"
                f"{mean['AUROC']:8.2f} ({min(areas):.2f} to {max(areas):.2f})"
            )


def main() -> None:
    """Train what is not in the folder yet, and print a line for each pair."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the packs")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--sources", nargs="+", default=["ani1x", "qm7x", "mptrj"])
    parser.add_argument("--pairs", type=int, default=3, help="pairs of each source")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe_machine())
    print(
        f"{'source':14}{'pair':7}{'tested':>7}{'error ratio':>12}{'of uncertainty':>16}"
        f"{'90 %: known':>11}{'pair':>8}{'AUROC':>8} (range over {options.seeds} seeds)"
    )
    for line in lines(
        options.results.resolve(),
        options.work.resolve(),
        options.sources,
        pairs=options.pairs,
        seeds=options.seeds,
        epochs=options.epochs,
    ):
        print(line, flush=True)


if __name__ == "__main__":
    main()
