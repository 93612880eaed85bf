"""mtlpar, as ``config.yaml`` has it, through its own command line.

Its clock counts the whole command: reading, graphs, validation and writing the model. The number of
epochs that fits is found from trainings of one and three epochs, after one that pays for what is
imported and compiled only once.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import loop
import numpy as np
from ase.io import read

import mtlpar
from mtlpar.cli import main as command

_PROBES = {"unused": 1, "short": 1, "longer": 3}


def train(job: dict[str, Any], folder: Path, epochs: int) -> float:
    """CPU seconds of a training in a folder of its own."""
    folder.mkdir()
    for part in ("packed", "normalized", "extracted", "ledger"):
        (folder / part).symlink_to(Path(job["results"]) / part)
    changes = [
        f"paths.results={folder}",
        f"seed={job['seed']}",
        f"train.epochs={epochs}",
        f"model.head.forces={job['forces']}",
    ]
    started = time.process_time()
    if command(["train", f"--model={job['source']}", *(f"--set={change}" for change in changes)]):
        raise SystemExit("mtlpar train failed")
    return time.process_time() - started


def main() -> None:
    """Train as long as the job says, predict, measure, and write ``result.json``."""
    job = loop.read_job()
    out = Path(job["out"])
    taken = {name: train(job, out / name, epochs) for name, epochs in _PROBES.items()}
    of_an_epoch = (taken["longer"] - taken["short"]) / (_PROBES["longer"] - _PROBES["short"])
    epochs = max(1, 1 + int((job["cpu_seconds"] - taken["short"]) / of_an_epoch))
    result: dict[str, float] = {"cpu_seconds": train(job, out / "training", epochs)}
    result["epochs"] = epochs
    (path,) = (out / "training").glob("models/*/model.pt")
    model, test = mtlpar.load_model(path), read(job["test"], ":")

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
