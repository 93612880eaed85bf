"""Every benchmark still goes with the code that it measures: names, options, and a smallest run."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY
from warm import warm_python

SCRIPTS = sorted((REPOSITORY / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_explains_itself(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nothing else imports them: a renamed function would be found by the next who measures.
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(str(script.parent))
    if "__main__" not in script.read_text(encoding="utf-8"):
        runpy.run_path(str(script))
        return
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


SMALLEST = {
    "neighbors": "--structures 64 --batch 32 --rounds 1 --device cpu",
    "normalize": "--structures 500 --repeats 1",
    "pack": "--structures 2000 --part-structures 1000 --block-structures 300 --repeats 1",
}
# The same, but for what they import or start.
SLOW = {
    "allocator": "--rounds 2 --repeats 1",
    "conservative": "--rounds 2 --repeats 1",
    "ddstore": "--total-atoms 2000 --atoms 14 --rounds 1",
    "extract": "--megabytes 1 --conformations 20 --repeats 1",
    "full_size": "--fraction 1/16384 --source ani1x",
    "imports": "--rounds 1",
    "load_model": "--rounds 1",
    "loader": "--structures 300 --batch 16 --rounds 1 --steps 1",
    # The peers would be installed.
    "peers": "--only mtlpar mtlpar-direct-first --sources qm7x --cpu-seconds 1",
    "step": "--edges 100 --memory-edges 200 --repeats 1 --train-steps 2 --threads 1",
}
# These compute data of their own, take long, or need a trained model, another build or a GPU.
NEED_MORE = {
    "accuracy", "batched", "catalogue", "ccsd", "choice", "deal", "distill", "dynamics",
    "finetune", "finish", "gpu", "identity", "kept", "labels", "planner", "predict", "schedule",
    "stress", "uncertainty",
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(pytest.param(*entry, id=entry[0]) for entry in SMALLEST.items()),
        *(pytest.param(*entry, id=entry[0], marks=pytest.mark.slow) for entry in SLOW.items()),
    ],
)
def test_a_benchmark_ends_well_at_its_smallest_size(name: str, options: str) -> None:
    # Made-up manifests and packs have lacked what newer readers ask for, which no option shows.
    line = [*warm_python(), str(REPOSITORY / "benchmarks" / f"{name}.py"), *options.split()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ratio" in done.stdout or name == "imports"


def test_every_benchmark_is_run_or_named_as_one_that_needs_more() -> None:
    programs = {path.stem for path in SCRIPTS if "__main__" in path.read_text(encoding="utf-8")}
    assert programs == {*SMALLEST, *SLOW, *NEED_MORE}
