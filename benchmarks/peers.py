"""Errors after equal CPU seconds, and speed, beside MACE, NequIP and SevenNet.

    python benchmarks/peers.py --work FOLDER --cpu-seconds 60 300 1800 --seeds 3

Brings the embedded sample, or another of `tools.sample`, through the stages; installs each peer in
an environment of its own; trains everything on the same splits for the same CPU seconds of one
pinned core, and scores their predictions of the test sets. `peer_trainers/loop.py` says what the
clock counts, and each `peer_trainers/with_*.py` how its library is set up. A peer that cannot be
installed or fails is reported and left out. Finished trainings stay in the folder, so what was
interrupted continues.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import ase
import numpy as np
import torch
from ase.io import read
from machine import describe_machine
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
TRAINERS = ROOT / "benchmarks" / "peer_trainers"
SOURCES = ("qm7x", "transition1x", "mptrj")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Contestant:
    """What is compared.

    Attributes:
        script: Its trainer.
        requirement: The pinned library; None for this environment.
        options: What only its trainer asks for.
        environment: Variables that the library needs.
    """

    script: str
    requirement: str | None = None
    options: Mapping[str, str | bool] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def _ours(forces: str, *, direct_first: bool = False) -> Contestant:
    options: dict[str, str | bool] = {"forces": forces, "direct_first": direct_first}
    return Contestant("with_mtlpar.py", options=options)


CONTESTANTS = {
    "mtlpar": _ours("equivariant"),
    "mtlpar-conservative": _ours("conservative"),
    # As the default config makes its model for dynamics.
    "mtlpar-direct-first": _ours("conservative", direct_first=True),
    # MACE is bound to an e3nn whose own tables torch takes for untrusted.
    "mace": Contestant(
        "with_mace.py",
        "mace-torch==0.3.16",
        environment={"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
    ),
    "nequip": Contestant("with_nequip.py", "nequip==0.19.1"),
    "sevennet": Contestant("with_sevennet.py", "sevenn==0.13.0"),
}
OURS = tuple(name for name, one in CONTESTANTS.items() if one.requirement is None)


class Case(NamedTuple):
    """One training."""

    seconds: float
    source: str
    name: str
    seed: int


def prepare(work: Path, sample: Path, sources: Sequence[str]) -> None:
    """Bring sources through the stages and write their splits as extended XYZ."""
    for source in sources:
        if (work / f"{source}-test.extxyz").exists():
            continue
        changes = (
            f"--set=paths.raw={work / 'raw'}",
            f"--set=paths.results={work / 'results'}",
            f"--set=download.mirrors=[{sample.resolve()}]",
        )
        for stage in ("download", "extract", "normalize", "pack"):
            mtlpar(stage, *changes, f"--source={source}")
        for split in SPLITS:
            pack = work / "results" / "packed" / source / f"{split}.bp"
            mtlpar("export", str(pack), str(work / f"{source}-{split}.extxyz"))


def mtlpar(*words: str) -> None:
    """Run a command of the package at the root of the repository."""
    subprocess.run([sys.executable, "-m", "mtlpar", *words], check=True, cwd=ROOT)


def installed(work: Path, names: Iterable[str]) -> dict[str, str]:
    """Interpreters by contestant, of those that could be installed."""
    found = {}
    for name in names:
        requirement = CONTESTANTS[name].requirement
        if requirement is None:
            found[name] = sys.executable
            continue
        folder = work / "environments" / requirement
        python = folder / "bin" / "python"
        if not (folder / "complete").exists():
            venv.create(folder, with_pip=True, clear=True)
            torch_here = torch.__version__.partition("+")[0]
            wanted = (f"torch=={torch_here}", f"ase=={ase.__version__}", requirement)
            done = subprocess.run(
                [python, "-m", "pip", "install", "--quiet", *wanted],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                print(f"{name} is left out, {requirement} cannot be installed: {last_line(done)}")
                continue
            (folder / "complete").touch()
        found[name] = str(python)
    return found


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a program said at its end."""
    return (done.stderr.strip() or "nothing was printed").splitlines()[-1]


def train(work: Path, case: Case, python: str, core: int) -> Path | None:
    """Train and predict in a process of its own; the folder of the results, None if it failed."""
    contestant = CONTESTANTS[case.name]
    out = work / "trained" / f"{case.seconds:g}" / case.source / case.name / str(case.seed)
    if (out / "result.json").exists():
        return out
    # What an interrupted training left would be continued, with seconds that nobody counts.
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    job = {split: str(work / f"{case.source}-{split}.extxyz") for split in SPLITS}
    job |= {"results": str(work / "results"), "source": case.source, "out": str(out)}
    numbers = {"cpu_seconds": case.seconds, "seed": case.seed, "core": core}
    text = json.dumps({**job, **numbers, **contestant.options})
    (out / "job.json").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [python, "-W", "ignore", str(TRAINERS / contestant.script), str(out / "job.json")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **contestant.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{case.name} failed on {case.source}: {last_line(done)}")
        return None
    return out


def score(work: Path, source: str, out: Path) -> dict[str, float]:
    """Errors of predictions of the test set, and what the trainer measured."""
    found = np.load(out / "predictions.npz")
    test = read(work / f"{source}-test.extxyz", ":")
    sizes = np.array([len(atoms) for atoms in test])
    energies = np.array([atoms.get_potential_energy() for atoms in test])
    forces = np.concatenate([atoms.get_forces() for atoms in test])
    measured = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return {
        "F": float(np.abs(found["forces"] - forces).mean()),
        "E": float(np.abs((found["energies"] - energies) / sizes).mean()),
        **measured,
    }


COLUMNS = {
    "F": "F, eV/Å",
    "E": "E, eV/atom",
    "cpu_seconds": "CPU s",
    "epochs": "epochs",
    "ms_per_structure": "ms/structure",
    "ms_per_step": "ms/MD step",
}


def print_table(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """A row for each contestant: means over its seeds, of errors with half their range."""
    print(f"{'':22}" + "".join(f"{label:>18}" for label in COLUMNS.values()))
    for name, seeds in scores.items():
        cells = []
        for column in COLUMNS:
            values = [one[column] for one in seeds]
            mean, half = statistics.mean(values), (max(values) - min(values)) / 2
            is_error = column in ("F", "E")
            cells.append(f"{mean:.4f} ± {half:.4f}" if is_error else f"{mean:.1f}")
        print(f"{name:22}" + "".join(f"{cell:>18}" for cell in cells))


def print_ratios(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """What is ours beside the best peer of each column."""
    peers = [name for name in scores if name not in OURS]
    for name in (name for name in OURS if name in scores):
        if not peers:
            print(f"  ratio of {name} to the best peer: there is none")
            continue
        cells = []
        for column in ("F", "E", "ms_per_structure", "ms_per_step"):
            means = {key: statistics.mean(one[column] for one in scores[key]) for key in scores}
            best = min(peers, key=means.__getitem__)
            cells.append(f"{COLUMNS[column]} {means[name] / means[best]:.2f} ({best})")
        print(f"  ratio of {name} to the best peer: " + ", ".join(cells))


def run(work: Path, options: argparse.Namespace) -> None:
    """Train everything that is not in the folder yet, and print the tables."""
    prepare(work, options.sample, options.sources)
    pythons = installed(work, options.only)
    seeds = range(options.seeds)
    # Contestants take turns: a machine that slows down slows all of them.
    grid = product(options.cpu_seconds, seeds, options.sources, pythons)
    scores: dict[Case, dict[str, float]] = {}
    for seconds, seed, source, name in tqdm(list(grid), unit=" training", disable=None):
        case = Case(seconds, source, name, seed)
        out = train(work, case, pythons[name], options.core)
        if out is not None:
            scores[case] = score(work, source, out)
    print(describe_machine())
    for seconds, source in product(options.cpu_seconds, options.sources):
        print(f"\n{source}, {seconds:g} CPU s, seeds {len(seeds)}")
        rows: dict[str, list[dict[str, float]]] = {}
        for case, found in scores.items():
            if (case.seconds, case.source) == (seconds, source):
                rows.setdefault(case.name, []).append(found)
        print_table(rows)
        print_ratios(rows)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder of everything (default: a temporary one)")
    sample = ROOT / "workflow" / "sample"
    parser.add_argument("--sample", type=Path, default=sample, help="native files of the sources")
    parser.add_argument("--sources", nargs="+", default=SOURCES)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--cpu-seconds", nargs="+", type=float, default=[60.0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--core", type=int, default=0, help="core that everything runs on")
    options = parser.parse_args()
    if options.work is not None:
        run(options.work.resolve(), options)
        return
    with TemporaryDirectory() as folder:
        run(Path(folder), options)


if __name__ == "__main__":
    main()
