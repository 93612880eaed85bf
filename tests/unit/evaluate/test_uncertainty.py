"""What `evaluate` says of uncertainties: coverage, order, and what they tell apart."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import make_structures
from networks import make_network, make_uncertainty
from training import MODEL, run_alone

from mtlpar.core.paths import Workspace
from mtlpar.evaluate import stage
from mtlpar.evaluate.errors import Predicted
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.evaluate.uncertainty import LEVELS, auroc, rank_correlation, uncertainty_quality
from mtlpar.model.uncertainty import BranchUncertainty
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack


def test_the_area_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    # Whole numbers: some are equal, and count half.
    positive, negative = rng.integers(0, 6, 15) + 1.0, rng.integers(0, 6, 11) * 1.0
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(positive, negative)]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))
    assert auroc(positive, np.zeros(0)) is None


def test_the_order_of_errors_is_compared_and_not_their_size() -> None:
    sigma = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(sigma, np.exp(sigma) ** 3) == pytest.approx(1)
    assert rank_correlation(sigma, -sigma) == pytest.approx(-1)
    assert rank_correlation(np.ones(4), sigma) is None


def made_up(
    five_sources: Workspace, elements: tuple[int, ...] = (1, 6, 8)
) -> tuple[BranchUncertainty, PackedDataset, np.ndarray]:
    """An uncertainty, a set of many structures, and features of them."""
    dataset = PackedDataset(Pack.open(five_sources.pack("ani1x", "test")))
    dataset.structures = make_structures(4000, seed=3, atoms=(2, 4))
    dataset.target_ev_per_atom = np.zeros(4000)
    known = make_uncertainty(make_network(), "ani1x", elements=elements)
    features = np.random.default_rng(5).normal(size=(4000, len(known.covariance)))
    return known, dataset, features


def test_errors_of_the_stated_size_are_covered_as_stated(five_sources: Workspace) -> None:
    known, dataset, features = made_up(five_sources)
    sigma = known.energy_ev_per_atom(features)
    error = sigma * np.random.default_rng(6).normal(size=len(sigma))
    predicted = Predicted(error, dataset.structures.forces, None, features)
    found = uncertainty_quality(known, "ani1x", dataset, predicted)
    assert found is not None
    np.testing.assert_allclose(found["observed"], LEVELS, atol=0.03)
    assert found["coverage_90"] == found["observed"][LEVELS.index(0.9)]
    assert found["rank_correlation"] > 0.05
    assert found["num_pair_never_seen"] == 0
    assert found["auroc_pair_never_seen"] is None
    twice = uncertainty_quality(
        known, "ani1x", dataset, predicted._replace(energy_per_atom=2 * error)
    )
    assert twice is not None
    assert twice["coverage_90"] < 0.65


def test_structures_of_new_pairs_of_elements_are_told_apart_where_they_stand_out(
    five_sources: Workspace,
) -> None:
    known, dataset, features = made_up(five_sources)
    together = known.sources["ani1x"].together
    together[6, 8] = together[8, 6] = False
    numbers = np.split(dataset.structures.atomic_numbers, dataset.structures.offsets[1:-1])
    is_new = np.array([{6, 8} <= set(of.tolist()) for of in numbers])
    features[is_new] *= 10
    predicted = Predicted(np.zeros(4000), dataset.structures.forces, None, features)
    found = uncertainty_quality(known, "ani1x", dataset, predicted)
    assert found is not None
    assert found["num_pair_never_seen"] == is_new.sum() > 100
    assert found["auroc_pair_never_seen"] > 0.99


def test_groups_that_were_never_seen_are_compared_with_those_that_were(
    five_sources: Workspace,
) -> None:
    known, dataset, features = made_up(five_sources)
    source = known.sources["ani1x"]
    leverage = np.sort(known.leverage(features))
    source.seen[:] = torch.from_numpy(np.quantile(leverage, np.linspace(0, 1, 101)))
    predicted = Predicted(np.zeros(4000), dataset.structures.forces, None, features)
    alike = uncertainty_quality(known, "ani1x", dataset, predicted)
    further = predicted._replace(last_features=5 * features)
    apart = uncertainty_quality(known, "ani1x", dataset, further)
    assert alike is not None
    assert apart is not None
    assert alike["auroc_group_never_seen"] == pytest.approx(0.5, abs=0.01)
    assert apart["auroc_group_never_seen"] > 0.95


def test_metrics_have_it_where_the_branch_measured_it(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    # One branch that is tried on a source it has not learned: there, nothing is known.
    workspace = copy_of(five_sources)
    run_alone(workspace, {"a": ("ani1x",)}, epochs=1, source_weights={}, model=MODEL)
    sources = ("ani1x", "qm7x")
    stage.run("mtl", workspace=workspace, settings=EvaluateSettings(), sources=sources, seed=0)
    own, foreign = (json.loads(workspace.metrics("mtl", one).read_text()) for one in sources)
    assert own["uncertainty"]["num_structures"] == own["num_structures"]
    assert 0 <= own["uncertainty"]["coverage_90"] <= 1
    assert "uncertainty" not in foreign
