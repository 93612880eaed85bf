"""The training loop stops loudly, stops early, and holds only what it owns."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_structures, write_extracted
from training import (
    BRANCHES,
    MODEL,
    TRAIN,
    TWO_BRANCHES,
    epoch_lines,
    history,
    losses,
    run_alone,
)

from mtlpar.core.paths import Workspace
from mtlpar.model.file import load_model
from mtlpar.model.multitask import MultiTaskModel, Prediction, parameter_counts
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings
from mtlpar.parallel.agree import AgreedError
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack
from mtlpar.train import trainer
from mtlpar.train.objective import Objective, SourceShare, Targets
from mtlpar.train.sampler import EpochPlan
from mtlpar.train.settings import TaskWeights


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], None]:
    """Make the predicted energy of one structure of qm7x infinite in some steps."""
    terms = Objective.terms

    def arrange(steps: set[int]) -> None:
        calls = count(1)

        def poisoned(
            self: Objective, prediction: Prediction, targets: Targets, pieces: list[SourceShare]
        ) -> torch.Tensor:
            if next(calls) in steps:
                (piece,) = (piece for piece in pieces if piece.source == "qm7x")
                prediction.energy_per_atom.data[piece.structures[0]] = torch.inf
            return terms(self, prediction, targets, pieces)

        monkeypatch.setattr(Objective, "terms", poisoned)

    return arrange


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_structure(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    poison: Callable[[set[int]], None],
) -> None:
    workspace = copy_of(five_sources)
    poison({3})
    with pytest.raises(
        AgreedError, match=r"the loss of qm7x is not finite in step 3.*Structures: qm7x ([0-9a-f]+)"
    ) as caught:
        run_alone(workspace)
    assert not workspace.model("mtl").exists()
    # Exactly the poisoned structure, the first that qm7x gives to the third step.
    dataset = PackedDataset(Pack.open(workspace.pack("qm7x", "train")))
    plan = EpochPlan(_sizes(workspace), TRAIN.batch_structures, seed=0)
    first = plan.order("qm7x", 0)[slice(*plan.bounds("qm7x", 2))][0]
    expected = f"qm7x {dataset.structures.structure_id[first]:016x}"
    assert str(caught.value).endswith(f"Structures: {expected}")


def test_skipped_steps_are_counted_and_limited(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    poison: Callable[[set[int]], None],
) -> None:
    workspace = copy_of(five_sources)
    poison({3, 6})
    run_alone(workspace, on_nonfinite="skip", max_skipped_steps=2, max_gradient_norm=0.5)
    steps = [line for line in history(workspace) if line["kind"] == "step"]
    assert [line["step"] for line in steps if line["skipped"]] == [3, 6]
    # The weights were not touched by what was left out.
    assert all(np.isfinite(line["loss"]) for line in steps if not line["skipped"])
    assert load_model(workspace.model("mtl")).training["skipped_steps"] == 2
    poison({7, 8, 9})
    with pytest.raises(AgreedError, match="3 steps left out"):
        run_alone(workspace, on_nonfinite="skip", max_skipped_steps=2)


def test_an_epoch_of_which_every_step_was_left_out_is_an_error(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    poison: Callable[[set[int]], None],
) -> None:
    # Fewer than are tolerated, but there is nothing left to take a mean of.
    poison({1, 2, 3, 4})
    with pytest.raises(AgreedError, match="all steps of epoch 1 were left out"):
        run_alone(copy_of(five_sources), on_nonfinite="skip")


def test_a_training_that_diverged_in_its_last_step_is_told_by_validation(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No later step has a loss to look at; such a score would stay the best one for ever.
    workspace = copy_of(five_sources)
    errors = trainer.validation_errors

    def diverged(*args: Any, **kwargs: Any) -> dict[str, dict[str, float]]:
        found = errors(*args, **kwargs)
        return {**found, "mptrj": dict.fromkeys(found["mptrj"], np.nan)}

    monkeypatch.setattr(trainer, "validation_errors", diverged)
    told = "validation error of mptrj is not finite after epoch 1.*Lower train.learning_rate"
    with pytest.raises(AgreedError, match=told):
        run_alone(workspace)
    assert not workspace.model("mtl").exists()


def _rates_by_epoch(workspace: Workspace) -> dict[int, float]:
    """Learning rate of the last step of each epoch."""
    return {
        line["epoch"]: line["learning_rate"]
        for line in history(workspace)
        if line["kind"] == "step"
    }


@pytest.mark.parametrize(
    ("options", "out_of_patience", "end"),
    [
        # Two of patience after the first epoch; two epochs of cooldown belong to three before it.
        ({"schedule": "constant", "epochs": 20}, 3, 5),
        # While a cosine is high scores wander: only the second half of the epochs counts.
        ({"schedule": "cosine", "epochs": 10}, 7, 10),
        ({"schedule": "constant", "epochs": 20, "cooldown": 0.0}, 3, 3),
    ],
)
def test_a_score_that_stays_begins_the_cooldown_and_it_is_said(
    options: dict[str, Any],
    out_of_patience: int,
    end: int,
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # It would look as if epochs had been lost; and weights at a high rate are no result.
    scores = iter([1.0] + [2.0] * 20)
    monkeypatch.setattr(trainer, "relative_score", lambda *_, **__: next(scores))
    workspace = copy_of(five_sources)
    run_alone(workspace, TWO_BRANCHES, patience_epochs=2, **options)
    assert "no better score for 2 epochs (train.patience_epochs): the learning" in caplog.text
    assert f"training ends with epoch {end}" in caplog.text
    assert f"patience ran out after epoch {out_of_patience}" in caplog.text
    rates = _rates_by_epoch(workspace)
    assert list(rates)[-1] == end
    if options.get("cooldown") != 0.0:
        assert rates[end] < 0.2 * rates[out_of_patience]


@pytest.mark.parametrize(
    ("scores", "options", "kept"),
    [
        # The luckiest of the epochs at a high rate.
        ([0.5, 0.30, 0.5, 0.43, 0.42, 0.43], {"schedule": "cosine"}, 5),
        # Small sets are overfitted: that much is not luck.
        ([0.5, 0.25, 0.5, 0.43, 0.42, 0.43], {"schedule": "cosine"}, 2),
        # Once a settled one is kept, the others of its kind must be better than it.
        ([0.5, 0.40, 0.5, 0.43, 0.435, 0.44], {"schedule": "cosine"}, 4),
        # Nothing in validation has a label: the weights of the first epoch are not the best.
        ([0.0] * 6, {"schedule": "cosine"}, 6),
        # A cooldown of two epochs has one that ends low.
        ([0.5, 0.40, 0.5, 0.43, 0.42, 0.43], {"schedule": "constant", "cooldown": 0.34}, 6),
        ([0.5, 0.40, 0.5, 0.43, 0.42, 0.43], {"schedule": "constant", "cooldown": 0.0}, 2),
    ],
)
def test_an_epoch_of_a_low_rate_is_kept_unless_an_earlier_one_was_much_better(
    scores: list[float],
    options: dict[str, Any],
    kept: int,
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decreed = iter(scores)
    monkeypatch.setattr(trainer, "relative_score", lambda *_, **__: next(decreed))
    workspace = copy_of(five_sources)
    run_alone(workspace, TWO_BRANCHES, epochs=6, **options)
    best_step = load_model(workspace.model("mtl")).training["best_step"]
    assert best_step == kept * 4
    assert [line["is_best"] for line in epoch_lines(workspace)][kept - 1 :] == [
        True, *[False] * (6 - kept)
    ]  # fmt: skip


def test_a_model_that_is_replaced_by_another_training_stays(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    caplog: pytest.LogCaptureFixture,
) -> None:
    workspace = copy_of(five_sources)
    run_alone(workspace, TWO_BRANCHES, epochs=1)
    first = workspace.model("mtl").read_bytes()
    assert "another training" not in caplog.text
    run_alone(workspace, TWO_BRANCHES, epochs=2)
    assert "model.pt was made by another training; that model stays at" in caplog.text
    kept = [path.read_bytes() for path in (workspace.checkpoints("mtl")).glob("*/model.pt")]
    assert len(kept) == 2
    assert first in kept
    assert workspace.model("mtl").read_bytes() != first
    # The same training once more replaces nothing.
    caplog.clear()
    run_alone(workspace, TWO_BRANCHES, epochs=2)
    assert "another training" not in caplog.text


def _sizes(workspace: Workspace) -> dict[str, int]:
    return {
        source: len(PackedDataset(Pack.open(workspace.pack(source, "train"))))
        for source in BRANCHES
    }


def test_averaged_weights_are_what_is_validated_and_exported(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    run_alone(workspace, TWO_BRANCHES, epochs=2)
    plain = load_model(workspace.model("mtl")).network.state_dict()
    scores = [line["score"] for line in epoch_lines(workspace)]
    steps = losses(workspace)
    run_alone(workspace, TWO_BRANCHES, epochs=2, ema_decay=0.9)
    averaged = load_model(workspace.model("mtl")).network.state_dict()
    # The training itself is the same; only what is looked at differs.
    np.testing.assert_array_equal(losses(workspace), steps)
    assert [line["score"] for line in epoch_lines(workspace)] != scores
    name = "encoder.layers.0.message.weight"
    assert not torch.equal(averaged[name], plain[name])


def test_a_plateau_of_the_score_lowers_the_rate(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = copy_of(five_sources)
    # Scores by decree: two epochs without improvement, twice.
    scores = iter([1.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(trainer, "relative_score", lambda *_, **__: next(scores))
    options = {
        "schedule": "plateau",
        "plateau_epochs": 2,
        "patience_epochs": None,
        "cooldown": 0.0,
    }
    run_alone(workspace, TWO_BRANCHES, learning_rate=1e-3, epochs=6, **options)
    steps = [line for line in history(workspace) if line["kind"] == "step"]
    rates = {line["epoch"]: line["learning_rate"] for line in steps}
    assert list(rates.values()) == [1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4]


def test_tasks_of_a_dataset_can_be_weighted_apart(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    weights = {source: TaskWeights(energy=0, force=0) for source in BRANCHES}
    weights["mptrj"] = TaskWeights(energy=2, force=0)
    run_alone(workspace, source_weights=weights, epochs=1)
    line = history(workspace)[0]
    expected = 2 * line["terms"]["mptrj"]["energy_mae_ev_per_atom"]
    assert line["loss"] == pytest.approx(expected)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_short_factors_train_almost_as_float32_does(
    precision: str, five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    run_alone(workspace, precision="float32", epochs=2)
    expected = losses(workspace)
    run_alone(workspace, precision=precision, epochs=2)
    # bf16 has eight bits: a few per mille of the loss, and never float16's overflow.
    np.testing.assert_allclose(losses(workspace), expected, rtol=0.02)
    state = load_model(workspace.model("mtl")).network.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_training_ends_when_validation_stops_improving(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    # A rate so large that the first epoch stays the best.
    run_alone(
        workspace,
        TWO_BRANCHES,
        learning_rate=3.0,
        epochs=30,
        patience_epochs=2,
        schedule="constant",
        cooldown=0.0,
    )
    assert len(epoch_lines(workspace)) < 30


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
    run_alone(workspace, {"ani1x": ("ani1x",)}, epochs=8, learning_rate=1e-2, source_weights={})
    scores = [line["score"] for line in epoch_lines(workspace)]
    # One is as good as predicting zero.
    assert min(scores) < 0.5
    assert scores[-1] < scores[0]


# The compiler's own probing of tensors warns.
@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_train_the_same(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = copy_of(five_sources)
    branches = {"ani1x": ("ani1x",)}
    # One layer, of which each kind is compiled: others take as long again.
    shallow = MODEL.model_copy(update={"encoder": MODEL.encoder.model_copy(update={"layers": 1})})
    run_alone(workspace, branches, model=shallow, epochs=1, source_weights={})
    expected = losses(workspace)
    # Capture and differentiation of the graphs, which is where the code could be at fault, without
    # half a minute of generating C++.
    compiled = []
    compile_module = torch.nn.Module.compile

    def without_code(self: torch.nn.Module, **options: object) -> None:
        compiled.append(type(self).__name__)
        compile_module(self, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", without_code)
    run_alone(workspace, branches, model=shallow, epochs=1, source_weights={}, compile=True)
    assert sorted(compiled) == ["EgnnLayer", "Mlp", "Mlp"]
    np.testing.assert_allclose(losses(workspace), expected, rtol=1e-10)


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


def test_errors_of_a_small_dataset_are_means_over_the_steps_that_held_it(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    # Small batches leave most steps without a structure of Alexandria; counted as steps without
    # error, they would make its training error a fraction of its validation error.
    workspace = copy_of(five_sources)
    run_alone(workspace, epochs=1, batch_structures=3)
    *steps, epoch = history(workspace)
    held = [line["terms"]["alexandria"] for line in steps if "alexandria" in line["terms"]]
    assert 0 < len(held) < len(steps)
    for task, mean in epoch["train"]["alexandria"].items():
        assert mean == pytest.approx(np.mean([terms[task] for terms in held]))
        assert min(terms[task] for terms in held) > 0
