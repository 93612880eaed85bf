"""An interrupted training is the uninterrupted one, on this layout or another."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from training import (
    BRANCHES,
    TWO_BRANCHES,
    ask_to_stop,
    command_line,
    epoch_lines,
    history,
    losses,
    run_alone,
    run_ranks,
)
from warm import warm_python

from mtlpar.core.paths import Workspace
from mtlpar.flow.lease import Owner, hold
from mtlpar.model.file import load_model
from mtlpar.parallel.agree import Interrupted
from mtlpar.train import trainer
from mtlpar.train.checkpoint import CheckpointFolder
from mtlpar.train.progress import TrainingProgress, read_progress


class InterruptionError(Exception):
    """Stands for whatever ends a job early."""


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """End training right after the checkpoint of an epoch."""

    def arrange(epoch: int) -> None:
        save = CheckpointFolder.save

        def save_and_stop(
            self: CheckpointFolder, state: Mapping[str, torch.Tensor], progress: TrainingProgress
        ) -> None:
            save(self, state, progress)
            self.wait()
            if progress.epoch == epoch:
                raise InterruptionError

        monkeypatch.setattr(CheckpointFolder, "save", save_and_stop)

    return arrange


def _history(workspace: Workspace) -> list[dict[str, object]]:
    return [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in history(workspace)
    ]


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _ranks_below(pid: int) -> list[psutil.Process]:
    """The processes that train, below a launcher."""
    below = psutil.Process(pid).children(recursive=True)
    return [
        child for child in below if "train" in child.cmdline() and "launch" not in child.cmdline()
    ]


def _state(workspace: Workspace) -> dict[str, torch.Tensor]:
    return load_model(workspace.model("mtl")).network.state_dict()


def test_resumed_training_equals_uninterrupted_training_bit_by_bit(
    straight: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    stop_after: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    workspace = copy_of(straight)
    stop_after(2)
    with pytest.raises(InterruptionError):
        run_alone(workspace)
    monkeypatch.undo()
    run_alone(workspace)
    # Optimizer moments, schedule, order of the data, best epoch and patience all had to survive.
    assert "resumed after epoch 2, step 8" in caplog.text
    assert _history(workspace) == _history(straight)
    weights = _state(straight)
    for name, tensor in _state(workspace).items():
        assert torch.equal(tensor, weights[name]), name


def test_a_stop_in_the_middle_of_an_epoch_changes_nothing(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # All that a run carries along: averaged weights, plateaus, means over half an epoch.
    options = {"ema_decay": 0.9, "schedule": "plateau", "plateau_epochs": 1}
    workspace = copy_of(five_sources)
    run_alone(workspace, TWO_BRANCHES, **options)
    straight, weights = _history(workspace), _state(workspace)
    ask_to_stop(monkeypatch, in_step=7)
    with pytest.raises(Interrupted, match=r"stopped after step 7.*continues from it"):
        run_alone(workspace, TWO_BRANCHES, **options)
    run_alone(workspace, TWO_BRANCHES, **options)
    assert "resumed after epoch 1, step 7" in caplog.text
    assert _history(workspace) == straight
    for name, tensor in _state(workspace).items():
        assert torch.equal(tensor, weights[name]), name


def test_a_request_to_stop_after_the_last_step_finds_everything_done(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Another job would wait in the queue for a second of work.
    workspace = copy_of(five_sources)
    ask_to_stop(monkeypatch, in_step=4)
    run_alone(workspace, epochs=1)
    assert workspace.model("mtl").exists()


def test_a_run_goes_on_without_its_best_checkpoint(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # It was damaged, and the error said to remove it. Only the end needs it, which never came.
    workspace = copy_of(five_sources)
    scores = iter(range(100))
    monkeypatch.setattr(trainer, "relative_score", lambda *_, **__: float(next(scores)))
    ask_to_stop(monkeypatch, in_step=14)
    with pytest.raises(Interrupted):
        run_alone(workspace, TWO_BRANCHES)
    (folder,) = workspace.checkpoints("mtl").iterdir()
    shutil.rmtree(folder / "step-00000004")
    run_alone(workspace, TWO_BRANCHES)
    assert "step-00000004, the best checkpoint, is gone: the newest takes its place" in caplog.text
    assert load_model(workspace.model("mtl")).training["best_step"] == 16


def test_branches_may_change_places_in_the_middle_of_an_epoch(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Sums of errors over half an epoch would go to other sources if they were kept by position.
    workspace = copy_of(five_sources)
    run_alone(workspace, epochs=2)
    straight = [line["train"] for line in epoch_lines(workspace)]
    ask_to_stop(monkeypatch, in_step=6)
    with pytest.raises(Interrupted):
        run_alone(workspace, epochs=2)
    run_alone(workspace, dict(reversed(BRANCHES.items())), epochs=2)
    for before, after in zip(straight, (e["train"] for e in epoch_lines(workspace)), strict=True):
        for source, errors in before.items():
            assert after[source] == pytest.approx(errors, rel=1e-10)


def test_a_passed_deadline_stops_after_one_step(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    with pytest.raises(Interrupted, match="because of the deadline"):
        run_alone(workspace, deadline_s=0.0)
    (folder,) = workspace.checkpoints("mtl").iterdir()
    latest = CheckpointFolder(folder, rank=0).latest()
    assert latest is not None
    assert latest.step == 1


def test_checkpoints_come_as_often_as_asked_and_the_newest_and_the_best_stay(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = copy_of(five_sources)
    saved = []
    save = CheckpointFolder.save

    def note(
        self: CheckpointFolder, state: Mapping[str, torch.Tensor], progress: TrainingProgress
    ) -> None:
        saved.append(progress.step)
        save(self, state, progress)

    monkeypatch.setattr(CheckpointFolder, "save", note)
    # The first epoch is made the best.
    monkeypatch.setattr(trainer, "relative_score", lambda *_, **__: float(len(saved)))
    run_alone(workspace, TWO_BRANCHES, epochs=3, checkpoint_minutes=0, keep_checkpoints=3)
    assert saved == list(range(1, 13))
    (folder,) = workspace.checkpoints("mtl").iterdir()
    kept = sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))
    assert kept == [4, 10, 11, 12]


@pytest.mark.mpi
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_a_signal_to_one_rank_stops_all_in_good_order_and_the_next_run_continues(
    number: signal.Signals, straight: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(straight)
    line = command_line(workspace, 3, python=warm_python())
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: list(workspace.checkpoints("mtl").glob("*/step-00000008")))
    _ranks_below(process.pid)[-1].send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "a checkpoint was saved" in errors
    assert not workspace.model("mtl").exists()
    done = run_ranks(workspace, 2)
    assert done.returncode == 0, done.stderr
    assert "resumed after" in done.stderr
    np.testing.assert_allclose(losses(workspace), losses(straight), rtol=1e-10)


def test_progress_of_an_older_version_is_read_and_of_a_newer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    old = {"epoch": 2, "step": 8, "best_score": 0.5, "best_step": 4}
    path.write_text(json.dumps({**old, "epochs_without_improvement": 1, "finished": False}))
    progress = read_progress(path)
    assert (progress.epoch, progress.step, progress.best_step) == (2, 8, 4)
    assert progress.skipped_steps == 0
    path.write_text(json.dumps({**old, "format_version": 99}))
    with pytest.raises(ValueError, match="format 99, this version of mtlpar reads up to"):
        read_progress(path)


@pytest.mark.mpi
def test_training_continues_on_another_number_of_ranks(
    straight: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    stop_after: Callable[[int], None],
) -> None:
    workspace = copy_of(straight)
    stop_after(2)
    with pytest.raises(InterruptionError):
        run_alone(workspace)
    done = run_ranks(workspace, 3, layout="mtl-base")
    assert done.returncode == 0, done.stderr
    assert "resumed after epoch 2" in done.stderr
    np.testing.assert_allclose(losses(workspace), losses(straight), rtol=1e-10)


@pytest.mark.mpi
def test_a_killed_training_loses_no_more_than_an_epoch_and_ends_the_same(
    straight: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(straight)
    line = command_line(workspace, 2, python=warm_python())
    process = subprocess.Popen(line, start_new_session=True)
    folder = workspace.checkpoints("mtl")
    _wait_for(lambda: list(folder.glob("*/step-00000012")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    # mpiexec is gone; its ranks notice and end. Wait until none can write any more.
    time.sleep(3)
    done = run_ranks(workspace, 2)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(workspace), losses(straight), rtol=1e-10)
    weights = _state(straight)
    for name, tensor in _state(workspace).items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=1e-8)


def _flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda content: content[: len(content) // 2],
    "flipped": _flip_a_bit,
}


@pytest.mark.parametrize("damaged", ["__0_0.distcp", ".metadata"])
@pytest.mark.parametrize(
    "damage", ["flipped", *(pytest.param(one, marks=pytest.mark.slow) for one in ("empty", "half"))]
)
def test_a_damaged_checkpoint_is_named_and_training_continues_from_the_one_before(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    stop_after: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    damaged: str,
    damage: str,
) -> None:
    # What a lost node's file system may leave behind, long after the folder got its name. One bit
    # of a weight changes neither the length nor anything that torch looks at.
    workspace = copy_of(five_sources)
    stop_after(3)
    with pytest.raises(InterruptionError):
        run_alone(workspace, TWO_BRANCHES)
    monkeypatch.undo()
    *_, newest = sorted(workspace.results.rglob("step-*"))
    content = (newest / damaged).read_bytes()
    (newest / damaged).write_bytes(DAMAGE[damage](content))
    with pytest.raises(ValueError, match=f"{newest / damaged} .*expected .*remove that folder"):
        run_alone(workspace, TWO_BRANCHES)
    shutil.rmtree(newest)
    run_alone(workspace, TWO_BRANCHES)
    # Five epochs of four steps, each told once.
    assert len(losses(workspace)) == 20


def test_other_settings_never_continue_from_old_checkpoints(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    stop_after: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = copy_of(five_sources)
    stop_after(2)
    with pytest.raises(InterruptionError):
        run_alone(workspace, TWO_BRANCHES, learning_rate=3e-3)
    monkeypatch.undo()
    run_alone(workspace, TWO_BRANCHES)
    assert _history(workspace)[0]["step"] == 1


def test_checkpoints_say_what_they_are_of(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    run_alone(workspace, epochs=1)
    (folder,) = workspace.checkpoints("mtl").iterdir()
    described = json.loads((folder / "run.json").read_text())
    assert described["fingerprint"].startswith(folder.name)
    assert described["train"]["epochs"] == 1
    saved = load_model(workspace.model("mtl"))
    energies = described["sources"]["qm7x"]["references_ev"]
    assert energies == dict(saved.references["qm7x"].energies_ev)


def test_a_half_written_checkpoint_is_ignored(straight: Workspace, tmp_path: Path) -> None:
    (whole,) = straight.checkpoints("mtl").iterdir()
    folder = shutil.copytree(whole, tmp_path / whole.name)
    latest = CheckpointFolder(folder, rank=0).latest()
    assert latest is not None
    broken = folder / "step-99999999"
    broken.mkdir()
    (broken / "__0_0.distcp").write_bytes(b"half")
    assert CheckpointFolder(folder, rank=0).latest() == latest


@pytest.mark.mpi
def test_ranks_that_waited_for_another_process_do_not_train_what_it_has_made(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    first = run_ranks(workspace, 2, epochs=1)
    assert first.returncode == 0, first.stderr
    made = workspace.model("mtl").stat().st_mtime_ns
    with hold(workspace.model("mtl").parent, "train-mtl", Owner.this_process()):
        line = command_line(workspace, 2, python=warm_python(), epochs=1)
        waiting = subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert waiting.stderr is not None
        for text in waiting.stderr:
            if "waiting for" in text:
                break
    _, errors = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, errors
    assert "the previous process made it; nothing to do" in errors
    assert workspace.model("mtl").stat().st_mtime_ns == made
