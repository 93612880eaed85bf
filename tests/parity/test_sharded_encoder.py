"""An encoder in shards takes the same steps as a whole one, and its checkpoints fit any layout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import training
from training import MODEL, command_line, epoch_lines, losses, run_alone, run_ranks
from warm import warm_python

from mtlpar.core.paths import Workspace
from mtlpar.model.file import load_model
from mtlpar.model.settings import ModelSettings
from mtlpar.parallel.agree import Interrupted

CONSERVATIVE = ModelSettings(
    encoder=MODEL.encoder, head=MODEL.head.model_copy(update={"forces": "conservative"})
)


def _results_beside(workspace: Workspace, folder: Path) -> Workspace:
    folder.mkdir()
    (folder / "packed").symlink_to(workspace.results / "packed")
    return Workspace(raw=workspace.raw, results=folder)


def _assert_same_model(one: Workspace, other: Workspace) -> None:
    reference = load_model(one.model("mtl")).network.state_dict()
    for name, tensor in load_model(other.model("mtl")).network.state_dict().items():
        torch.testing.assert_close(tensor, reference[name], rtol=0, atol=1e-8, msg=name)


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        # Thirty atoms are about five structures: ranks need different numbers of passes.
        pytest.param(
            2, {"encoder_shards": 2, "max_atoms_per_pass": 30},
            id="one copy, in passes", marks=pytest.mark.slow,
        ),
        # Four ranks for five branches, of which ani1x alone fills a rank: groups and shards cross.
        pytest.param(
            4, {"encoder_shards": 2, "ema_decay": 0.9, "epochs": 3},
            id="two copies, averaged weights",
        ),
        # A batch of three structures on four ranks that own everything: some ranks have none, and
        # reduce their branches later than the others.
        pytest.param(
            4, {"encoder_shards": 4, "layout": "mtl-base", "batch_structures": 3, "epochs": 1},
            id="ranks without structures",
        ),
    ],
)  # fmt: skip
def test_steps_scores_and_weights_equal_those_of_one_process(
    five_sources: Workspace, tmp_path: Path, ranks: int, changes: dict[str, object]
) -> None:
    execution = {"encoder_shards", "max_atoms_per_pass", "layout"}
    of_result = {key: value for key, value in changes.items() if key not in execution}
    alone = _results_beside(five_sources, tmp_path / "alone")
    run_alone(alone, **of_result)
    together = _results_beside(five_sources, tmp_path / "together")
    done = run_ranks(together, ranks, **changes)
    assert done.returncode == 0, done.stderr
    assert len(losses(together)) == len(losses(alone)) >= 12
    np.testing.assert_allclose(losses(together), losses(alone), rtol=1e-10)
    for got, expected in zip(epoch_lines(together), epoch_lines(alone), strict=True):
        assert got["score"] == pytest.approx(expected["score"], rel=1e-9)
    _assert_same_model(alone, together)


@pytest.mark.mpi
def test_training_goes_on_in_shards_and_whole_again(
    five_sources: Workspace, tmp_path: Path
) -> None:
    # Optimizer state and averaged weights pass twice through a checkpoint: of a whole encoder
    # that four ranks read in shards, and of shards that one process reads as a whole.
    changes = {"ema_decay": 0.9, "epochs": 2}
    straight = _results_beside(five_sources, tmp_path / "straight")
    run_alone(straight, **changes)
    workspace = _results_beside(five_sources, tmp_path / "changing")
    with pytest.raises(Interrupted):
        run_alone(workspace, deadline_s=0.0, **changes)
    shards = {**changes, "encoder_shards": 2}
    line = command_line(workspace, 4, python=warm_python(), **shards)
    line += ["--deadline-s", "0"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert "resumed after epoch 0, step 1" in done.stderr
    assert done.returncode == 75, done.stderr
    run_alone(workspace, **changes)
    np.testing.assert_allclose(losses(workspace), losses(straight), rtol=1e-10)
    _assert_same_model(straight, workspace)


@pytest.mark.mpi
def test_conservative_forces_go_through_the_backward_pass_twice(
    five_sources: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The backward pass within the forward pass must neither drop weights nor reduce gradients.
    monkeypatch.setattr(training, "MODEL", CONSERVATIVE)
    alone = _results_beside(five_sources, tmp_path / "alone")
    run_alone(alone, epochs=1, batch_structures=4)
    together = _results_beside(five_sources, tmp_path / "together")
    done = run_ranks(
        together, 4, epochs=1, batch_structures=4, encoder_shards=2, max_atoms_per_pass=20
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(together), losses(alone), rtol=1e-10)
    _assert_same_model(alone, together)
