"""An interrupted training is the uninterrupted one, on this layout or another."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from training import command_line, history, losses, run_alone, run_ranks

from mtlpar.core.paths import Workspace
from mtlpar.model.saved import load_model
from mtlpar.train.checkpoint import CheckpointFolder, Progress


class InterruptionError(Exception):
    """Stands for whatever ends a job early."""


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """End training right after the checkpoint of an epoch."""

    def arrange(epoch: int) -> None:
        save = CheckpointFolder.save

        def save_and_stop(
            self: CheckpointFolder, state: Mapping[str, torch.Tensor], progress: Progress
        ) -> None:
            save(self, state, progress)
            if progress.epoch == epoch:
                raise InterruptionError

        monkeypatch.setattr(CheckpointFolder, "save", save_and_stop)

    return arrange


def _history(workspace: Workspace) -> list[dict[str, object]]:
    return [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in history(workspace)
    ]


def _state(workspace: Workspace) -> dict[str, torch.Tensor]:
    return load_model(workspace.model("mtl")).network.state_dict()


def test_resumed_training_equals_uninterrupted_training_bit_by_bit(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    stop_after: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The same folder twice: first straight, then anew with an interruption in the middle.
    workspace = copy_of(five_sources)
    run_alone(workspace)
    straight, weights = _history(workspace), _state(workspace)
    stop_after(2)
    with pytest.raises(InterruptionError):
        run_alone(workspace)
    monkeypatch.undo()
    run_alone(workspace)
    # Optimizer moments, schedule, order of the data, best epoch and patience all had to survive.
    assert _history(workspace) == straight
    for name, tensor in _state(workspace).items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.mpi
def test_training_continues_on_another_number_of_ranks(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    stop_after: Callable[[int], None],
) -> None:
    workspace = copy_of(five_sources)
    run_alone(workspace)
    straight = losses(workspace)
    stop_after(2)
    with pytest.raises(InterruptionError):
        run_alone(workspace)
    done = run_ranks(workspace, 3, layout="mtl-base")
    assert done.returncode == 0, done.stderr
    assert "resumed after epoch 2" in done.stderr
    np.testing.assert_allclose(losses(workspace), straight, rtol=1e-10)


@pytest.mark.mpi
def test_a_killed_training_loses_no_more_than_an_epoch_and_ends_the_same(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    run_alone(workspace)
    straight, weights = losses(workspace), _state(workspace)
    for path in (workspace.model("mtl"), workspace.training_metrics("mtl")):
        path.unlink()
    process = subprocess.Popen(command_line(workspace, 2), start_new_session=True)
    folder = workspace.checkpoints("mtl")
    deadline = time.monotonic() + 120
    while not list(folder.glob("*/step-00000012")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # mpiexec is gone; its ranks notice and end. Wait until none can write any more.
    time.sleep(3)
    done = run_ranks(workspace, 2)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(workspace), straight, rtol=1e-10)
    for name, tensor in _state(workspace).items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=1e-8)


def test_other_settings_never_continue_from_old_checkpoints(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    stop_after: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = copy_of(five_sources)
    stop_after(2)
    with pytest.raises(InterruptionError):
        run_alone(workspace, learning_rate=3e-3)
    monkeypatch.undo()
    run_alone(workspace)
    assert _history(workspace)[0]["step"] == 1


def test_a_half_written_checkpoint_is_ignored(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    run_alone(workspace)
    (folder,) = workspace.checkpoints("mtl").iterdir()
    latest = CheckpointFolder(folder, rank=0).latest()
    assert latest is not None
    broken = folder / "step-99999999"
    broken.mkdir()
    (broken / "__0_0.distcp").write_bytes(b"half")
    assert CheckpointFolder(folder, rank=0).latest() == latest
