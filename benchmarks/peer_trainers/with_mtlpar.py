"""mtlpar, as ``config.yaml`` has it, through its own command line.

Its clock counts the whole command: reading, graphs, validation and writing the model. The number of
epochs that fits is found from trainings of one and three epochs. A model of conservative forces can
start from one of direct forces, as ``mtl_conservative`` does; then each takes half of the time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import loop
import numpy as np
from ase.io import read

import mtlpar
from mtlpar.cli import main as command

# One that pays for what is imported and compiled only once, then two that say what an epoch takes.
_PROBES = {"unused": 1, "short": 1, "longer": 3}
_FINISHED = "finished"


def train(job: Mapping[str, Any], folder: Path, epochs: int, *, start: Path | None = None) -> float:
    """CPU seconds of a training in a folder of its own, from a model of direct forces if named."""
    folder.mkdir()
    for part in ("packed", "normalized", "extracted", "ledger"):
        (folder / part).symlink_to(Path(job["results"]) / part)
    source = model = job["source"]
    changes = [
        f"paths.results={folder}",
        f"seed={job['seed']}",
        f"train.epochs={epochs}",
        f"model.head.forces={job['forces']}",
    ]
    if start is not None:
        model = _FINISHED
        # The architecture is that of the file, with what the entry itself changes.
        entry = f"branches: {{{source}: [{source}]}}, start_from: {{model: {start}}}"
        entry += f", model: {{head: {{forces: {job['forces']}}}}}"
        changes.append(f"models.{model}={{{entry}}}")
    started = time.process_time()
    if command(["train", f"--model={model}", *(f"--set={change}" for change in changes)]):
        raise SystemExit("mtlpar train failed")
    return time.process_time() - started


def train_for(
    job: Mapping[str, Any], out: Path, seconds: float, *, start: Path | None = None
) -> tuple[Path, float, int]:
    """Train for about as many CPU seconds: the model, the seconds and the epochs."""
    out.mkdir()
    taken = {name: train(job, out / name, of, start=start) for name, of in _PROBES.items()}
    of_an_epoch = (taken["longer"] - taken["short"]) / (_PROBES["longer"] - _PROBES["short"])
    epochs = max(1, 1 + int((seconds - taken["short"]) / of_an_epoch))
    spent = train(job, out / "training", epochs, start=start)
    (path,) = (out / "training").glob("models/*/model.pt")
    return path, spent, epochs


def main() -> None:
    """Train as long as the job says, predict, measure, and write ``result.json``."""
    job = loop.read_job()
    out, seconds = Path(job["out"]), job["cpu_seconds"]
    path, spent, epochs = None, 0.0, 0
    if job["direct_first"]:
        direct = {**job, "forces": "equivariant"}
        path, spent, epochs = train_for(direct, out / "direct", seconds / 2)
    path, more, more_epochs = train_for(job, out / job["forces"], seconds - spent, start=path)
    result: dict[str, float] = {"cpu_seconds": spent + more, "epochs": epochs + more_epochs}
    model, test = mtlpar.load_model(path), read(job["test"], ":")
    if model.settings.head.forces != job["forces"]:
        raise SystemExit(f"the model has {model.settings.head.forces} forces")

    def predict_test() -> tuple[np.ndarray, np.ndarray]:
        found = model.predict(test)
        return np.array([one.energy for one in found]), np.concatenate(
            [one.forces for one in found]
        )

    result |= loop.measure(out, predict_test, mtlpar.Calculator(path), test)
    result["parameters"] = sum(value.numel() for value in model.network.parameters())
    (out / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
