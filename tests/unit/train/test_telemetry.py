"""What a training tells: curves in the terminal, and the trackers people use."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from training import BRANCHES, epoch_lines, history, run_alone

from mtlpar.core.paths import Workspace
from mtlpar.train.trackers import open_trackers, scalars
from mtlpar.train.watch import draw, find_history, read_history


@pytest.mark.long
def test_a_run_in_progress_can_be_watched(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    with pytest.raises(ValueError, match="no training of 'mtl' has left"):
        find_history(workspace, "mtl")
    run_alone(workspace, epochs=3)
    path = find_history(workspace, "mtl")
    # Half a line, as a reader may find it at any moment.
    with path.open("a") as stream:
        stream.write('{"kind": "st')
    text = draw(read_history(path), colour=False, width=100)
    for expected in (*BRANCHES, "eV/atom", "eV/Å", "kept so far", "epoch 3", "peak memory"):
        assert expected in text
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert draw([], colour=False) == "no step yet"


def test_time_of_every_rank_is_told_per_epoch(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    run_alone(workspace, epochs=1)
    (epoch,) = epoch_lines(workspace)
    (seconds,) = epoch["seconds"]["ranks"]
    assert seconds["compute"] > 0
    assert seconds["peak_memory_bytes"] > 2**20
    parts = sum(seconds[name] for name in ("data", "compute", "reduce", "validate"))
    assert parts <= epoch["seconds"]["total"] * 1.01 + 0.01
    assert {"data", "compute", "reduce"} <= set(history(workspace)[0]["seconds"])


@pytest.mark.long
def test_tensorboard_gets_every_number(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    workspace = copy_of(five_sources)
    run_alone(workspace, epochs=2, trackers=("tensorboard",))
    (folder,) = workspace.checkpoints("mtl").glob("*/tensorboard/*")
    events = EventAccumulator(str(folder)).Reload()
    steps = [line for line in history(workspace) if line["kind"] == "step"]
    losses = [event.value for event in events.Scalars("step/loss")]
    assert losses == pytest.approx([line["loss"] for line in steps], rel=1e-6)
    assert "epoch/val/qm7x/force_mae_ev_per_angstrom" in events.Tags()["scalars"]


def test_other_trackers_are_driven_through_their_own_libraries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    # Stand-ins with the calls of the real libraries, which need a server or an account.
    seen: list[tuple[str, Any]] = []
    run = types.SimpleNamespace(
        log=lambda values, step: seen.append(("wandb", (values, step))),
        finish=lambda: seen.append(("wandb", "finished")),
    )
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: run))  # type: ignore[arg-type]
    (tracker,) = open_trackers(["wandb"], run="r", folder=tmp_path, settings={"seed": 1})
    tracker.log({"kind": "step", "step": 7, "loss": 0.5, "skipped": False})
    tracker.close()
    assert seen == [("wandb", ({"step/loss": 0.5}, 7)), ("wandb", "finished")]


def test_a_tracker_that_is_not_installed_is_an_error_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match=r"names mlflow, but it is not installed.*pip install"):
        open_trackers(["mlflow"], run="r", folder=tmp_path, settings={})


def test_nested_numbers_get_names_and_nothing_else_does() -> None:
    line = {"a": 1, "b": {"c": 2.0, "d": {"e": 3}}, "text": "x", "flag": True, "none": None}
    assert scalars(line) == {"a": 1.0, "b/c": 2.0, "b/d/e": 3.0}
