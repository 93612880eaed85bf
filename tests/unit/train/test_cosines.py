"""Which sources pull the encoder the same way is measured right, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from training import TRAIN, history, losses, run_alone, run_ranks

from mtlpar.core.paths import Workspace
from mtlpar.graph.collate import collate
from mtlpar.model.file import load_model
from mtlpar.model.multitask import MultiTaskModel, Segment
from mtlpar.store.pack import Pack
from mtlpar.train.cosines import pair_cosines, suggested_groups, table
from mtlpar.train.data import target_scale
from mtlpar.train.settings import TrainSettings

BRANCHES = {name: (name,) for name in ("ani1x", "qm7x", "mptrj")}


def measured(workspace: Workspace) -> dict[int, dict[str, Any]]:
    """Norms and cosines by step."""
    lines = (line for line in history(workspace) if line["kind"] == "step")
    return {
        line["step"]: line["encoder_gradients"] for line in lines if "encoder_gradients" in line
    }


def test_a_cosine_is_that_of_gradients_computed_one_by_one(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    # One step with all structures, so that it is known which ones; in float64.
    workspace = copy_of(five_sources)
    run_alone(workspace, BRANCHES, epochs=1, batch_structures=1000, cosine_steps=1)
    found = measured(workspace)[1]
    saved = load_model(workspace.model("mtl"))
    gradients = {}
    for source in BRANCHES:
        with Pack.open(workspace.pack(source, "train")) as pack:
            structures, header = pack.first(1000), pack.header
        network = MultiTaskModel(saved.settings, [source], seed=0).double()
        network.set_scales({source: target_scale({source: header}, (source,))})
        graph = collate(structures, saved.settings.graph, dtype=torch.float64)
        prediction = network(graph, [Segment(source, 0, len(structures))])
        energy, force, _ = TRAIN.weights_of(source)
        target = torch.from_numpy(header.references.to_target(structures))
        forces = torch.from_numpy(structures.forces.astype(np.float64))
        loss = energy * (prediction.energy_per_atom - target).abs().mean()
        loss = loss + force * (prediction.forces - forces).abs().mean()
        loss.backward()
        every = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in network.encoder.parameters()
        ]
        gradients[source] = torch.cat([one.reshape(-1) for one in every])
    for pair, cosine in found["cosines"].items():
        one, other = (gradients[name] for name in pair.split())
        expected = float(one @ other / (one.norm() * other.norm()))
        assert cosine == pytest.approx(expected, abs=1e-7)
    assert len(found["cosines"]) == 3
    for source, norm in found["norms"].items():
        assert norm == pytest.approx(float(gradients[source].norm()), rel=1e-7)


@pytest.mark.long
def test_measuring_changes_no_step(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace], tmp_path_factory: Any
) -> None:
    workspace = copy_of(five_sources)
    run_alone(workspace, BRANCHES, epochs=2)
    plain, fingerprint = losses(workspace), load_model(workspace.model("mtl")).training
    run_alone(workspace, BRANCHES, epochs=2, cosine_steps=3)
    np.testing.assert_array_equal(losses(workspace), plain)
    assert load_model(workspace.model("mtl")).training["fingerprint"] == fingerprint["fingerprint"]
    # Of every three steps the first.
    assert [step % 3 for step in measured(workspace)] == [1] * len(measured(workspace))
    assert len(measured(workspace)) > 1


@pytest.mark.mpi
def test_ranks_measure_what_one_process_measures(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    # Four ranks share three branches: a cosine of one rank's part would be another number.
    workspace = copy_of(five_sources)
    run_alone(workspace, BRANCHES, epochs=1, cosine_steps=2)
    expected = measured(workspace)
    done = run_ranks(workspace, 4, branches=BRANCHES, epochs=1, cosine_steps=2)
    assert done.returncode == 0, done.stderr
    found = measured(workspace)
    assert found.keys() == expected.keys()
    for step, one in found.items():
        assert one["cosines"] == pytest.approx(expected[step]["cosines"], abs=1e-9)
        assert len(one["cosines"]) == 3


def lines(cosines: dict[str, float], spread: float) -> list[dict[str, Any]]:
    """A history in which each pair has cosines about one number."""
    rng = np.random.default_rng(0)
    return [
        {
            "encoder_gradients": {
                "cosines": {pair: mean + rng.normal(scale=spread) for pair, mean in cosines.items()}
            }
        }
        for _ in range(200)
    ]


def test_pairs_that_pull_apart_are_in_different_groups() -> None:
    cosines = {"a b": 0.5, "a c": -0.3, "b c": -0.2, "a d": 0.4, "b d": 0.3, "c d": 0.0}
    pairs = pair_cosines(lines(cosines, spread=0.3))
    verdicts = {" ".join(one.pair): one.verdict for one in pairs}
    assert verdicts["a b"] == verdicts["a d"] == verdicts["b d"] == "together"
    assert verdicts["a c"] == verdicts["b c"] == "against each other"
    assert verdicts["c d"] == "undecided"
    assert {frozenset(group) for group in suggested_groups(pairs)} == {
        frozenset("abd"), frozenset("c"),
    }  # fmt: skip
    assert table(pairs).splitlines()[1].startswith("a b")


def test_a_friend_of_a_friend_is_no_friend() -> None:
    # b goes with both, which pull against each other: joined with one of them it is not with both.
    pairs = pair_cosines(lines({"a b": 0.5, "b c": 0.4, "a c": -0.4}, spread=0.1))
    assert {frozenset(group) for group in suggested_groups(pairs)} == {
        frozenset("ab"), frozenset("c"),
    }  # fmt: skip


def test_the_standard_error_is_that_of_the_mean() -> None:
    # Independent steps: one sigma over the root of their number.
    (pair,) = pair_cosines(lines({"a b": 0.1}, spread=0.2))
    assert pair.error == pytest.approx(0.2 / 200**0.5, rel=0.5)
    assert abs(pair.mean - 0.1) < 3 * pair.error


def test_a_history_without_directions_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"measured in 0 steps.*train\.cosine_steps"):
        pair_cosines([{"kind": "step"}])


def test_an_encoder_in_shards_has_no_gradient_to_compare() -> None:
    with pytest.raises(ValueError, match="cosine_steps 5: expected encoder_shards 1, got 2"):
        TrainSettings(cosine_steps=5, encoder_shards=2)
