"""A model that starts from another one begins where that one ended, on any layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from training import BRANCHES, MODEL, TRAIN, run_alone

from mtlpar.core.paths import Workspace
from mtlpar.model.predict import predict_batches
from mtlpar.model.saved import load_model
from mtlpar.model.settings import EncoderSettings, ModelSettings
from mtlpar.parallel.ranks import RankContext
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack
from mtlpar.train import stage
from mtlpar.train.recipe import Start

# A rate so small that no weight moves: what comes out is what went in.
STILL = {"learning_rate": 1e-300, "epochs": 1, "weight_decay": 0.0}


def _start(
    workspace: Workspace,
    branches: dict[str, tuple[str, ...]],
    new: dict[str, str],
    model: ModelSettings = MODEL,
) -> None:
    stage.run(
        "next",
        branches=branches,
        workspace=workspace,
        model_settings=model,
        settings=TRAIN.model_copy(update={**STILL, "source_weights": {}}),
        seed=1,
        context=RankContext(0, 1, torch.device("cpu")),
        start=Start(path=workspace.model("mtl"), new_branches=new),
    )


def _predictions(path: Path, workspace: Workspace, source: str, branch: str) -> np.ndarray:
    dataset = PackedDataset(Pack.open(workspace.pack(source, "test")))
    model = load_model(path).network
    pieces = predict_batches(
        model, dataset.structures, branch=branch, graph=MODEL.graph, batch_atoms=500
    )
    return np.concatenate([np.append(part.energy_per_atom, part.forces) for part in pieces])


@pytest.fixture
def trained(five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]) -> Workspace:
    workspace = copy_of(five_sources)
    run_alone(workspace, {name: BRANCHES[name] for name in ("ani1x", "qm7x", "mptrj")}, epochs=2)
    return workspace


def test_branches_that_stay_predict_the_same_with_one_added_and_one_removed(
    trained: Workspace,
) -> None:
    branches = {name: BRANCHES[name] for name in ("ani1x", "mptrj", "transition1x")}
    _start(trained, branches, {"transition1x": "ani1x"})
    for source in ("ani1x", "mptrj"):
        np.testing.assert_array_equal(
            _predictions(trained.model("next"), trained, source, source),
            _predictions(trained.model("mtl"), trained, source, source),
        )
    assert "qm7x" not in load_model(trained.model("next")).branches


def test_a_new_branch_takes_over_weights_and_has_scales_and_references_of_its_own(
    trained: Workspace,
) -> None:
    _start(trained, {"transition1x": ("transition1x",)}, {"transition1x": "ani1x"})
    old, new = (load_model(trained.model(name)) for name in ("mtl", "next"))
    theirs = old.network.heads["ani1x"].state_dict()
    ours = new.network.heads["transition1x"].state_dict()
    for name, tensor in ours.items():
        # Sizes of the targets belong to the data, everything else comes from the other branch.
        assert torch.equal(tensor, theirs[name]) != name.endswith("_scale"), name
    own = PackedDataset(Pack.open(trained.pack("transition1x", "train"))).header.references
    assert new.references["transition1x"] == own


def test_another_architecture_is_refused_and_the_difference_named(trained: Workspace) -> None:
    wider = ModelSettings(
        encoder=EncoderSettings(width=16, layers=2, vector_channels=3, radial_basis=6),
        head=MODEL.head,
    )
    with pytest.raises(ValueError, match=r"encoder.width is 12 there and 16 here"):
        _start(trained, {"ani1x": ("ani1x",)}, {}, wider)
