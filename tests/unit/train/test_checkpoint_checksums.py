"""A training goes on from what it wrote itself, bit by bit, or says in one line why not."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_workspace
from training import ask_to_stop, run_alone

from mtlpar.core.paths import Workspace
from mtlpar.model.file import load_model
from mtlpar.parallel.agree import AgreedError, Interrupted
from mtlpar.store.checksums import CHECKSUMS
from mtlpar.train.checkpoint import CheckpointFolder
from mtlpar.train.history import read_lines
from mtlpar.train.progress import TrainingProgress, read_progress

BRANCHES = {"ani1x": ("ani1x",)}
# Two steps an epoch; stopped after the fifth, with checkpoints of steps 2, 4 and 5.
OPTIONS = {"epochs": 4, "keep_checkpoints": 3, "batch_structures": 14}


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("packs"), {"ani1x": 40})


@pytest.fixture(scope="module")
def stopped(packs: Workspace) -> Workspace:
    with pytest.MonkeyPatch.context() as patch:
        ask_to_stop(patch, in_step=5)
        with pytest.raises(Interrupted):
            run_alone(packs, BRANCHES, **OPTIONS)
    return packs


@pytest.fixture
def workspace(stopped: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(stopped.results, tmp_path / "results")
    return Workspace(raw=tmp_path / "raw", results=tmp_path / "results")


def _steps(workspace: Workspace) -> list[Path]:
    return sorted(workspace.checkpoints("mtl").glob("*/step-*"))


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _swap(first: Path, second: Path) -> None:
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


DAMAGE: dict[str, tuple[Callable[[Workspace], object], str]] = {
    # It picked another model as the best.
    "a better score": (
        lambda work: _edit(_steps(work)[-1] / "progress.json", best_score=1e-9),
        r"progress\.json (is damaged|has \d+ bytes)",
    ),
    "another best step": (
        lambda work: _edit(_steps(work)[-1] / "progress.json", best_step=4),
        r"progress\.json (is damaged|has \d+ bytes)",
    ),
    "another step": (
        lambda work: _edit(_steps(work)[-1] / "progress.json", step=4),
        r"progress\.json (is damaged|has \d+ bytes)",
    ),
    "two folders exchanged": (
        lambda work: _swap(*_steps(work)[-2:]),
        r"step-00000005/progress\.json: step is 4, expected 5: it belongs elsewhere",
    ),
    "no checksums": (
        lambda work: (_steps(work)[-1] / CHECKSUMS).unlink(),
        r"step-00000005 was not written by mtlpar, or not completely: no seal\.json",
    ),
    "an empty object": (
        lambda work: (_steps(work)[-1] / "progress.json").write_text("{}"),
        r"progress\.json: \w+ is missing",
    ),
    "a list": (
        lambda work: (_steps(work)[-1] / "progress.json").write_text("[]"),
        r"progress\.json has checkpoint format None",
    ),
    "a format that is no number": (
        lambda work: _edit(_steps(work)[-1] / "progress.json", format_version=[4]),
        r"progress\.json has checkpoint format \[4\]",
    ),
    "a text for a number": (
        lambda work: _edit(_steps(work)[-1] / "progress.json", best_score="good"),
        r"progress\.json: best_score is 'good', expected a valid number",
    ),
    "checksums of another shape": (
        lambda work: (_steps(work)[-1] / CHECKSUMS).write_text('{"progress.json": 3}'),
        r"seal\.json is damaged",
    ),
    "a note of another checkpoint": (
        lambda work: (_steps(work)[-1] / "finished.json").write_text(
            json.dumps({"seal": "0" * 64})
        ),
        r"finished\.json: seal is '0+\.*",
    ),
    "a note of another shape": (
        lambda work: (_steps(work)[-1] / "finished.json").write_text("{}"),
        r"finished\.json: seal is missing",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_not_what_was_saved_is_refused_in_one_line(workspace: Workspace, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage(workspace)
    with pytest.raises(ValueError, match=message) as caught:
        run_alone(workspace, BRANCHES, **OPTIONS)
    assert "\n" not in str(caught.value)
    assert "run" in str(caught.value)
    # What it advises works.
    for path in _steps(workspace)[-2:]:
        shutil.rmtree(path)
    run_alone(workspace, BRANCHES, **OPTIONS)
    assert load_model(workspace.model("mtl")).training["steps"] == 8


def test_checkpoints_of_another_training_are_refused(workspace: Workspace) -> None:
    # Of the same architecture and other settings, they would load.
    newest = _steps(workspace)[-1]
    other = newest.parent.with_name("0123456789abcdef")
    newest.parent.rename(other)
    with pytest.raises(ValueError, match=r"training is '\w+', expected '0123456789abcdef'"):
        CheckpointFolder(other, rank=0).latest()


def test_the_best_checkpoint_is_looked_at_before_it_is_exported(workspace: Workspace) -> None:
    # Training goes on from another one, and would export this one at the end.
    newest = _steps(workspace)[-1]
    best = newest.parent / f"step-{read_progress(newest / 'progress.json').best_step:08d}"
    assert best != newest
    _swap(best, next(path for path in _steps(workspace)[:2] if path != best))
    with pytest.raises(ValueError, match=r"progress\.json: step is \d, expected \d"):
        CheckpointFolder(newest.parent, rank=0).load(
            {"model.encoder.species.weight": torch.zeros(119, 12, dtype=torch.float64)},
            int(best.name.removeprefix("step-")),
        )


def test_an_older_checkpoint_without_checksums_is_continued(workspace: Workspace) -> None:
    for path in _steps(workspace):
        content = json.loads((path / "progress.json").read_text())
        del content["training"]
        (path / "progress.json").write_text(json.dumps({**content, "format_version": 4}))
        (path / CHECKSUMS).unlink()
    run_alone(workspace, BRANCHES, **OPTIONS)
    assert load_model(workspace.model("mtl")).training["steps"] == 8


def test_that_a_training_ended_well_is_noted_without_touching_the_checksums(tmp_path: Path) -> None:
    # A kill between progress and checksums would leave a checkpoint that nothing accepts.
    checkpoints = CheckpointFolder(tmp_path / "run", rank=0)
    progress = TrainingProgress(step=3)
    checkpoints.save({"model.weight": torch.ones(3)}, progress)
    checkpoints.wait()
    checksums = (checkpoints.path(3) / CHECKSUMS).read_bytes()
    checkpoints.mark_finished(progress)
    assert (checkpoints.path(3) / CHECKSUMS).read_bytes() == checksums
    latest = CheckpointFolder(tmp_path / "run", rank=0).latest()
    assert latest is not None
    assert latest.finished


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_is_one_line(tmp_path: Path) -> None:
    # Torch raises what is no `Exception`, with a traceback of its own inside.
    checkpoints = CheckpointFolder(tmp_path / "run", rank=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        checkpoints.save({"model.weight": torch.ones(100_000)}, TrainingProgress(step=3))
        with pytest.raises(
            AgreedError, match=r"step-00000003 cannot be written .*Free sp"
        ) as caught:
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert checkpoints.latest() is None
    checkpoints.save({"model.weight": torch.ones(100_000)}, TrainingProgress(step=3))
    checkpoints.wait()


def test_a_rank_that_is_lost_while_a_checkpoint_is_written_is_no_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Taken for a full disk that all know of, this rank left in good order and waited for the dead.
    def lose(*_: object, **__: object) -> None:
        raise RuntimeError("Connection closed by peer")

    checkpoints = CheckpointFolder(tmp_path / "run", rank=0)
    monkeypatch.setattr(checkpoints, "_group", object())
    monkeypatch.setattr(checkpoints, "_barrier", lambda: None)
    monkeypatch.setattr("mtlpar.train.checkpoint.save", lose)
    checkpoints.save({"model.weight": torch.ones(3)}, TrainingProgress(step=3))
    with pytest.raises(RuntimeError, match=r"^Connection closed by peer$"):
        checkpoints.wait()


@pytest.mark.parametrize("line", ['{"kind": "step"}', "[]", '{"kind": "step", "step": "2"}', "{"])
def test_a_damaged_line_of_the_history_is_named(workspace: Workspace, line: str) -> None:
    (path,) = workspace.checkpoints("mtl").glob("*/metrics.jsonl")
    whole = path.read_text()
    count = len(read_lines(path))
    path.write_text(f"{whole}{line}\n")
    with pytest.raises(ValueError, match=rf"metrics\.jsonl, line {count + 1}.*remove that line"):
        run_alone(workspace, BRANCHES, **OPTIONS)
