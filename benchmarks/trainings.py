"""Trainings on the packs of a finished quickstart, each in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
_READ = ("packed", "normalized", "extracted", "ledger")


@contextmanager
def own_folder(results: Path, *models: str) -> Iterator[Path]:
    """A temporary folder of results with the data of another one, and with some of its models."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        for part in (*_READ, *(f"models/{model}" for model in models)):
            (folder / part).symlink_to(results.resolve() / part)
        yield folder


def run_stage(stage: str, model: str, folder: Path, settings: Mapping[str, object]) -> None:
    """Run a stage of a model from the command line, on one thread, with results in a folder."""
    changes = {"paths.results": folder, **settings}
    subprocess.run(
        [sys.executable, "-m", "mtlpar", stage, f"--model={model}"]
        + [f"--set={key}={value}" for key, value in changes.items()],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
