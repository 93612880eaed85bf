"""A training of more epochs continues a shorter one and ends as one that was so long at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
import training
from training import TWO_BRANCHES, history

from mtlpar.core.paths import Workspace
from mtlpar.model.file import load_model
from mtlpar.train import trainer
from mtlpar.train.recipe import Start

STEPS_PER_EPOCH = 4
CONSTANT = {"schedule": "constant", "cooldown": 0.4}


def run_alone(workspace: Workspace, **options: Any) -> None:
    training.run_alone(workspace, TWO_BRANCHES, **options)


def _run(workspace: Workspace, **options: Any) -> tuple[dict[str, torch.Tensor], list[Any]]:
    run_alone(workspace, **options)
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in history(workspace)]
    return load_model(workspace.model("mtl")).network.state_dict(), lines


def _steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps that are really computed, from now on."""
    taken: list[int] = []
    run = trainer.TrainStep.run

    def counted(self: Any, passes: Any, *, step: int, **options: Any) -> Any:
        taken.append(step)
        return run(self, passes, step=step, **options)

    monkeypatch.setattr(trainer.TrainStep, "run", counted)
    return taken


@pytest.mark.parametrize(
    "options",
    [
        CONSTANT,
        # All that a training carries along besides the weights.
        {"schedule": "plateau", "plateau_epochs": 1, "cooldown": 0.4, "ema_decay": 0.9},
        # Without a cooldown the very last checkpoint is the one to continue from.
        {"schedule": "constant", "cooldown": 0.0},
    ],
)
def test_an_extended_training_equals_a_long_one_bit_by_bit(
    options: dict[str, Any],
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = copy_of(five_sources)
    long_weights, long_lines = _run(workspace, epochs=5, **options)
    shutil.rmtree(workspace.checkpoints("mtl"))
    run_alone(workspace, epochs=3, **options)
    taken = _steps_taken(monkeypatch)
    weights, lines = _run(workspace, epochs=5, **options)
    # Two of three epochs come before the cooldown; the cooldown itself is thrown away.
    stable = 3 - round(3 * options["cooldown"])
    assert taken == list(range(stable * STEPS_PER_EPOCH, 5 * STEPS_PER_EPOCH))
    assert lines == long_lines
    for name, tensor in weights.items():
        assert torch.equal(tensor, long_weights[name]), name


def test_a_cosine_depends_on_the_epochs_and_begins_again_which_the_log_explains(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    workspace = copy_of(five_sources)
    caplog.set_level("INFO")
    run_alone(workspace, epochs=1, schedule="cosine")
    assert "starts from the beginning" not in caplog.text
    taken = _steps_taken(monkeypatch)
    run_alone(workspace, epochs=2, schedule="cosine")
    assert taken[0] == 0
    (line,) = (one for one in caplog.messages if one.startswith("starts from the beginning"))
    assert "the training of 1 epoch in" in line
    assert "train.schedule=constant can be extended" in line
    # Another rate is another training: there is nothing to explain.
    caplog.clear()
    run_alone(workspace, epochs=1, schedule="cosine", learning_rate=2e-3)
    assert "starts from the beginning" not in caplog.text


@pytest.mark.parametrize("mode", ["heads", "lora:2"])
def test_an_extended_fine_tuning_equals_a_long_one_whatever_moves(
    mode: str,
    straight: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What does not move has no moments in a checkpoint, and low-rank updates have names of their
    # own; the new branch has references that were fitted before the first step.
    workspace = copy_of(straight)
    start = Start(path=straight.model("mtl"), new_branches={"own": "ani1x"}, mode=mode)
    options = {"branches": {"own": ("qm7x",)}, "start": start, "batch_structures": 20}

    def tune(epochs: int) -> dict[str, torch.Tensor]:
        training.run_alone(workspace, epochs=epochs, **CONSTANT, **options)
        return load_model(workspace.model("mtl")).network.state_dict()

    long = tune(3)
    shutil.rmtree(workspace.checkpoints("mtl"))
    tune(2)
    taken = _steps_taken(monkeypatch)
    extended = tune(3)
    # One of two epochs, of two steps each, comes before the cooldown.
    assert taken == [2, 3, 4, 5]
    assert all(torch.equal(tensor, long[name]) for name, tensor in extended.items())


@pytest.mark.parametrize("change", [{"learning_rate": 2e-3}, {"batch_structures": 10}])
def test_another_training_is_not_continued(
    change: dict[str, Any],
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = copy_of(five_sources)
    run_alone(workspace, epochs=3, **CONSTANT)
    taken = _steps_taken(monkeypatch)
    run_alone(workspace, epochs=5, **CONSTANT, **change)
    assert taken[0] == 0


def test_a_training_that_ran_out_of_patience_goes_on_with_more_of_it(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Scores by decree: patience of two runs out after the third epoch of eight.
    def decree() -> None:
        scores = iter([1.0] + [2.0] * 20)
        monkeypatch.setattr(trainer, "relative_score", lambda *_, **__: next(scores))

    workspace = copy_of(five_sources)
    decree()
    run_alone(workspace, epochs=8, patience_epochs=2, **CONSTANT)
    assert [line["epoch"] for line in history(workspace) if line["kind"] == "epoch"][-1] == 5
    taken = _steps_taken(monkeypatch)
    decree()
    run_alone(workspace, epochs=8, patience_epochs=None, **CONSTANT)
    assert taken == list(range(3 * STEPS_PER_EPOCH, 8 * STEPS_PER_EPOCH))
    # With less patience the earlier one might have ended before: nothing of it is taken.
    taken.clear()
    decree()
    run_alone(workspace, epochs=8, patience_epochs=1, **CONSTANT)
    assert taken[0] == 0


def test_a_shorter_training_takes_the_epochs_that_it_shares(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Epochs kept by the long one begin behind the cooldown of the short one: nothing fits, and
    # a checkpoint from there must not be taken.
    workspace = copy_of(five_sources)
    run_alone(workspace, epochs=10, **CONSTANT)
    taken = _steps_taken(monkeypatch)
    caplog.set_level("INFO")
    run_alone(workspace, epochs=5, **CONSTANT)
    assert taken[0] == 0
    assert "none of its checkpoints is from before the cooldowns of both" in caplog.text
