"""A model belongs to the splits, labels and references that it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import make_workspace
from training import run_alone

from mtlpar.core.files import read_json
from mtlpar.core.paths import Workspace
from mtlpar.evaluate import stage as evaluate
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.model.file import load_model
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings

BRANCHES = {"a": ("ani1x",)}


def _prepare(workspace: Workspace, *, seed: int = 0, **given: object) -> None:
    settings = NormalizeSettings(val_fraction=0.15, test_fraction=0.15, **given)
    normalize.run("ani1x", workspace=workspace, settings=settings, seed=seed)
    pack.run("ani1x", workspace=workspace, settings=PackSettings(), seed=0)


def _train(workspace: Workspace) -> None:
    run_alone(workspace, BRANCHES, epochs=1, source_weights={})


def _evaluate(workspace: Workspace) -> float:
    evaluate.run(
        "mtl", workspace=workspace, settings=EvaluateSettings(), sources=("ani1x",), seed=0
    )
    return float(read_json(workspace.metrics("mtl", "ani1x"))["energy_mae_ev_per_atom"])


def _shifted_references(workspace: Workspace) -> dict[str, object]:
    energies = read_json(workspace.references("ani1x"))["energies_ev"]
    shifted = {element: energy + 1.0 for element, energy in energies.items()}
    return {"reference_energies": {"ani1x": shifted}}


@pytest.fixture
def trained(tmp_path: Path) -> Workspace:
    workspace = make_workspace(tmp_path, {"ani1x": 60})
    _train(workspace)
    return workspace


def test_a_model_is_not_tested_on_splits_it_was_not_trained_on(trained: Workspace) -> None:
    # With another seed most of the new test set was in the model's own train split.
    _prepare(trained, seed=5)
    with pytest.raises(ValueError, match=r"learned ani1x from data .* train it again"):
        _evaluate(trained)


def test_a_model_is_not_tested_against_other_references(trained: Workspace) -> None:
    # The structures are the same; each prediction would be wrong by just the eV/atom of the shift.
    _prepare(trained, **_shifted_references(trained))
    with pytest.raises(ValueError, match="references have changed"):
        _evaluate(trained)


@pytest.mark.long
def test_other_references_are_another_training(trained: Workspace) -> None:
    # The packs' columns are the same, so their digests are. A finished checkpoint of the old
    # targets must not be taken for one of the new.
    before = load_model(trained.model("mtl"))
    _prepare(trained, **_shifted_references(trained))
    _train(trained)
    after = load_model(trained.model("mtl"))
    assert after.training["fingerprint"] != before.training["fingerprint"]
    states = (model.network.state_dict() for model in (before, after))
    assert not all(
        np.array_equal(*pair) for pair in zip(*(s.values() for s in states), strict=True)
    )
    assert _evaluate(trained) > 0


def test_a_model_goes_with_equal_packs_made_elsewhere(trained: Workspace, tmp_path: Path) -> None:
    # Equal data give equal packs, so a model may be tested where it was not trained.
    elsewhere = make_workspace(tmp_path / "elsewhere", {"ani1x": 60})
    elsewhere.model("mtl").parent.mkdir(parents=True)
    elsewhere.model("mtl").write_bytes(trained.model("mtl").read_bytes())
    assert _evaluate(elsewhere) == _evaluate(trained)
