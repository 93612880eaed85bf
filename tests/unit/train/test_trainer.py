"""The training loop stops loudly, stops early, and holds only what it owns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import make_structures, write_extracted
from training import BRANCHES, MODEL, epoch_lines, run_alone

from mtlpar.core.paths import Workspace
from mtlpar.model.multitask import MultiTaskModel, parameter_counts
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings
from mtlpar.train.objective import Objective


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_dataset(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = copy_of(five_sources)
    terms = Objective.terms
    calls = []

    def poisoned(self: Objective, *arguments: object) -> torch.Tensor:
        calls.append(1)
        result = terms(self, *arguments)  # type: ignore[arg-type]
        if len(calls) == 3:
            result[1, 0] = result[1, 0] * torch.nan
        return result

    monkeypatch.setattr(Objective, "terms", poisoned)
    with pytest.raises(
        ValueError, match=r"the loss of qm7x is not finite in step 3.*rank 0: [0-9a-f]"
    ):
        run_alone(workspace)
    assert not workspace.model("mtl").exists()
    assert len(calls) == 3


def test_training_ends_when_validation_stops_improving(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    # A rate so large that the first epoch stays the best.
    run_alone(workspace, learning_rate=3.0, epochs=30, patience_epochs=2, schedule="constant")
    epochs = epoch_lines(workspace)
    assert len(epochs) < 30
    assert not any(line["is_best"] for line in epochs[-2:])


def test_training_makes_the_model_better_than_predicting_zero(
    tmp_path: pytest.TempPathFactory,
) -> None:
    workspace = Workspace(raw=tmp_path / "raw", results=tmp_path / "results")
    write_extracted(workspace, "ani1x", make_structures(240, seed=1, strength=3.0))
    normalize.run(
        "ani1x",
        workspace=workspace,
        settings=NormalizeSettings(val_fraction=0.2, test_fraction=0.1),
        seed=0,
    )
    pack.run("ani1x", workspace=workspace, settings=PackSettings(), seed=0)
    run_alone(workspace, {"ani1x": ("ani1x",)}, epochs=8, learning_rate=1e-2, dataset_weights={})
    scores = [line["score"] for line in epoch_lines(workspace)]
    # One is as good as predicting zero.
    assert min(scores) < 0.5
    assert scores[-1] < scores[0]


def test_a_rank_holds_the_encoder_and_only_its_branches() -> None:
    every = parameter_counts(MultiTaskModel(MODEL, BRANCHES, seed=0))
    own = parameter_counts(MultiTaskModel(MODEL, ["qm7x"], seed=0))
    assert own == {"encoder": every["encoder"], "qm7x": every["qm7x"]}


def test_a_branch_starts_from_the_same_weights_whoever_holds_it() -> None:
    every = MultiTaskModel(MODEL, BRANCHES, seed=0).state_dict()
    for name, tensor in MultiTaskModel(MODEL, ["mptrj"], seed=0).state_dict().items():
        assert torch.equal(tensor, every[name]), name
    other = MultiTaskModel(MODEL, ["mptrj"], seed=1).state_dict()
    assert not torch.equal(other["encoder.species.weight"], every["encoder.species.weight"])


def test_building_a_model_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    MultiTaskModel(MODEL, ["a"], seed=0)
    np.testing.assert_array_equal(torch.rand(3), expected)
