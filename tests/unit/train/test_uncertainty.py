"""Uncertainties of branches are those of the formula, on any layout, and never stale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from training import BRANCHES, MODEL, run_alone, run_ranks

from mtlpar.core.paths import Workspace
from mtlpar.graph.collate import collate
from mtlpar.model.choice import Cloud
from mtlpar.model.file import load_model
from mtlpar.model.heads import Branch
from mtlpar.model.predict import predict_batches
from mtlpar.model.saved import SavedModel
from mtlpar.model.uncertainty import HALF_WIDTH, calibrate, squared_norms, whitening
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.store.pack import Pack
from mtlpar.train import uncertainty
from mtlpar.train.moments import ExactMoments
from mtlpar.train.recipe import Start
from mtlpar.train.uncertainty import SourceSums, chunks_of, measure

SOURCES = ("ani1x", "qm7x", "mptrj")


@pytest.fixture(scope="module")
def trained(five_sources: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A model of two branches, one of which learned two sources."""
    results = tmp_path_factory.mktemp("uncertainty")
    (results / "packed").symlink_to(five_sources.results / "packed")
    workspace = Workspace(raw=five_sources.raw, results=results)
    run_alone(workspace, {"a": ("ani1x", "qm7x"), "b": ("mptrj",)}, epochs=2, source_weights={})
    return workspace


def packs_of(workspace: Workspace) -> dict[str, tuple[Pack, Pack]]:
    return {
        source: (
            Pack.open(workspace.pack(source, "train")),
            Pack.open(workspace.pack(source, "val")),
        )
        for source in SOURCES
    }


def features_by_hand(model: SavedModel, pack: Pack, branch: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and errors of each structure of a pack, one by one, by no code of the package's
    that has to do with uncertainty: hooks say what enters the last layer.
    """
    seen: list[torch.Tensor] = []
    head = model.network.heads[branch]
    assert isinstance(head, Branch)
    hook = head.energy[-1].register_forward_hook(lambda _, given, __: seen.append(given[0]))
    structures = pack.read()
    phi, error = [], []
    for index in range(len(structures)):
        one = structures.slice(index, index + 1)
        batch = collate(one, model.settings.graph, dtype=torch.float64)
        atoms = model.network.encoder(batch, _vectors(batch))
        energy = head.atom_energies(atoms)
        phi.append([*seen.pop().detach().numpy().mean(axis=0), 1.0])
        target = pack.header.references.to_target(one)
        error.append(energy.detach().numpy().mean() - target[0])
    hook.remove()
    return np.array(phi), np.array(error)


def _vectors(batch: object) -> torch.Tensor:
    from mtlpar.model.geometry import edge_vectors

    return edge_vectors(batch)  # type: ignore[arg-type]


@pytest.mark.long
def test_they_are_those_of_a_dense_reference(trained: Workspace) -> None:
    model = load_model(trained.model("mtl"))
    packs = packs_of(trained)
    found = model.uncertainty["a"]
    phi = {
        source: features_by_hand(model, packs[source][0], "a")[0] for source in ("ani1x", "qm7x")
    }
    everything = np.concatenate([*phi.values()])
    covariance = everything.T @ everything / len(everything)
    # Digits of features end at 2^-37.
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-9)
    for source, rows in phi.items():
        assert found.sources[source].num_structures == len(rows)
        assert found.num_groups == len(np.unique(groups_of(packs)))
    test_phi, _ = features_by_hand(model, Pack.open(trained.pack("qm7x", "test")), "a")
    inverse = np.linalg.inv(covariance + found.regulariser * np.eye(len(covariance)))
    expected = found.factor * np.sqrt(np.diag(test_phi @ inverse @ test_phi.T))
    np.testing.assert_allclose(found.energy_ev_per_atom(test_phi), expected, rtol=1e-6)


def groups_of(packs: dict[str, tuple[Pack, Pack]]) -> np.ndarray:
    return np.concatenate([packs[source][1].read().group for source in ("ani1x", "qm7x")])


def test_the_spread_of_descriptors_is_that_of_the_encoder(trained: Workspace) -> None:
    model = load_model(trained.model("mtl"))
    train, validation = packs_of(trained)["mptrj"]
    (means, unseen) = (
        np.array(
            [
                next(
                    predict_batches(
                        model.network,
                        pack.read(index, index + 1),
                        branch="b",
                        graph=model.settings.graph,
                        batch_atoms=1,
                        pool=True,
                    )
                ).descriptors[0]  # type: ignore[index]
                for index in range(len(pack))
            ]
        )
        for pack in (train, validation)
    )
    found = model.uncertainty["b"].sources["mptrj"]
    np.testing.assert_allclose(found.spread[-1, :-1], means.mean(axis=0), atol=1e-9)
    covariance = found.spread[:-1, :-1] - torch.outer(found.spread[-1, :-1], found.spread[-1, :-1])
    np.testing.assert_allclose(covariance, np.cov(means.T, bias=True), atol=1e-9)
    distances = Cloud.of(found.spread.numpy()).squared_distance(unseen)
    assert float(found.distances[-1]) == pytest.approx(distances.max(), rel=1e-3)


def test_nine_tenths_of_the_validation_errors_are_within_the_interval(trained: Workspace) -> None:
    model = load_model(trained.model("mtl"))
    found, packs = model.uncertainty["a"], packs_of(trained)
    parts = [features_by_hand(model, packs[source][1], "a") for source in ("ani1x", "qm7x")]
    phi = np.concatenate([one for one, _ in parts])
    error = np.concatenate([one for _, one in parts])
    assert found.num_validation == len(error)
    inside = np.abs(error) <= HALF_WIDTH * found.energy_ev_per_atom(phi) * (1 + 1e-9)
    assert int(inside.sum()) == min(int(np.ceil(0.9 * (len(error) + 1))), len(error))


@pytest.mark.parametrize(
    "owners",
    [
        {"a": (0, 1), "b": (0, 1)},
        {"a": (0, 1), "b": (2,)},
        {"a": (0,), "b": (1, 2)},
    ],
)
def test_shares_of_ranks_add_up_to_the_same_bits(
    trained: Workspace, owners: dict[str, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Chunks of seven: a rank gets several, and their number does not divide by that of the ranks.
    monkeypatch.setattr(uncertainty, "_CHUNK", 7)
    model, packs = load_model(trained.model("mtl")), packs_of(trained)
    branches = {"a": ("ani1x", "qm7x"), "b": ("mptrj",)}
    held: list[dict[str, SourceSums]] = []
    monkeypatch.setattr(uncertainty, "_add_up_ranks", lambda sums, _: held.append(sums))
    monkeypatch.setattr(uncertainty, "uncertainty_of", lambda _: None)
    ranks = max(rank for ranks in owners.values() for rank in ranks) + 1
    alone = ParallelLayout(1, {"a": (0,), "b": (0,)})
    measure(model.network, packs, branches, layout=alone, rank=0)
    for rank in range(ranks):
        layout = ParallelLayout(ranks, owners)
        measure(model.network, packs, branches, layout=layout, rank=rank)
    expected, *shares = held
    for source in SOURCES:
        levels = sum(share[source].moments.levels for share in shares)
        total = ExactMoments(MODEL.head.width + 1)
        total.levels = np.asarray(levels)
        total.carry()
        np.testing.assert_array_equal(total.levels, expected[source].moments.levels)
        spread = sum(share[source].spread.levels for share in shares)
        total.levels = np.asarray(spread)
        total.carry()
        np.testing.assert_array_equal(total.levels, expected[source].spread.levels)
        assert expected[source].counts[0] == len(packs[source][0])
        assert sum(share[source].counts[0] for share in shares) == expected[source].counts[0]
        assert sum(len(share[source].samples[0]) > 1 for share in shares) >= 1


@pytest.mark.mpi
def test_a_training_on_ranks_measures_what_one_process_does(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace], tmp_path: Path
) -> None:
    # Three ranks for five branches: some own several, and none sees all sources.
    alone = copy_of(five_sources)
    run_alone(alone, epochs=1)
    together = Workspace(raw=alone.raw, results=tmp_path / "ranks")
    together.results.mkdir()
    (together.results / "packed").symlink_to(five_sources.results / "packed")
    done = run_ranks(together, 3, epochs=1)
    assert done.returncode == 0, done.stderr
    expected, found = (load_model(one.model("mtl")).uncertainty for one in (alone, together))
    assert list(found) == list(expected) == list(BRANCHES)
    for branch, one in expected.items():
        np.testing.assert_allclose(found[branch].covariance, one.covariance, rtol=1e-9, atol=1e-10)
        assert found[branch].regulariser == pytest.approx(one.regulariser, rel=1e-9)
        assert found[branch].factor == pytest.approx(one.factor, rel=1e-6)


def test_no_chunk_depends_on_ranks_or_reaches_across_a_block(trained: Workspace) -> None:
    pack = Pack.open(trained.pack("ani1x", "train"))
    chunks = chunks_of(pack, 20)
    assert chunks == [(0, 20)]
    assert chunks_of(pack, 10**6)[-1][1] == len(pack)


def test_sums_of_products_do_not_depend_on_the_order() -> None:
    # Sizes from 1e-9 to 1e4: float64 sums of these differ in their last digits with the order.
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 5)) * 10.0 ** rng.uniform(-9, 4, size=(300, 5))
    forwards, backwards = ExactMoments(5), ExactMoments(5)
    forwards.add(rows)
    for row in rows[::-1]:
        backwards.add(row[None])
    np.testing.assert_array_equal(forwards.levels, backwards.levels)
    assert (rows.T @ rows != rows[::-1].T.copy() @ rows[::-1]).any()
    np.testing.assert_allclose(forwards.mean(300), rows.T @ rows / 300, atol=1e-6, rtol=1e-12)


def test_sums_of_products_refuse_what_is_no_number() -> None:
    for wrong in (np.nan, np.inf, 1e6):
        with pytest.raises(ValueError, match="expected finite features"):
            ExactMoments(1).add(np.array([[wrong]]))


def test_coverage_holds_for_new_structures_of_a_linear_truth() -> None:
    # Errors that the formula describes: those of weights fitted to few noisy labels.
    rng = np.random.default_rng(1)
    shape = rng.normal(size=(6, 6))
    phi, validation, new = (rng.normal(size=(count, 6)) @ shape for count in (40, 2000, 20000))
    truth = rng.normal(size=6)
    fits = np.linalg.lstsq(phi, phi @ truth + 0.1 * rng.normal(size=40), rcond=None)[0]
    covariance = phi.T @ phi / len(phi)
    found = calibrate(covariance, validation, validation @ (fits - truth))
    sigma = found.factor * np.sqrt(squared_norms(new, whitening(covariance, found.regulariser)))
    inside = np.abs(new @ (fits - truth)) <= HALF_WIDTH * sigma
    assert inside.mean() == pytest.approx(0.9, abs=0.02)


def test_a_branch_that_did_not_move_keeps_its_uncertainty_and_another_loses_it(
    trained: Workspace, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "packed").symlink_to(trained.results / "packed")
    workspace = Workspace(raw=trained.raw, results=results)
    before = load_model(trained.model("mtl"))
    for mode, keeps in (("heads", True), ("full", False)):
        start = Start(path=trained.model("mtl"), new_branches={"c": "b"}, mode=mode)
        run_alone(workspace, {"c": ("alexandria",)}, start=start, epochs=1, source_weights={})
        after = load_model(workspace.model("mtl"))
        assert after.uncertainty_of("alexandria") is not None
        for source in SOURCES:
            found = after.uncertainty_of(source)
            assert (found is not None) == keeps
            reason = after.no_uncertainty_because(source)
            assert (reason is None) if keeps else ("has moved since" in (reason or ""))
        if keeps:
            old, new = before.uncertainty["a"], after.uncertainty["a"]
            np.testing.assert_array_equal(new.covariance, old.covariance)


def test_a_branch_that_is_fed_again_is_measured_again(trained: Workspace, tmp_path: Path) -> None:
    # The other source of the branch is kept; the branch has moved since it was measured.
    results = tmp_path / "results"
    results.mkdir()
    (results / "packed").symlink_to(trained.results / "packed")
    workspace = Workspace(raw=trained.raw, results=results)
    before = load_model(trained.model("mtl"))
    start = Start(path=trained.model("mtl"), new_branches={})
    run_alone(workspace, {"a": ("ani1x",)}, start=start, epochs=1, source_weights={})
    after = load_model(workspace.model("mtl"))
    assert set(after.uncertainty["a"].sources) == {"ani1x"}
    assert after.uncertainty_of("qm7x") is None
    assert np.abs(after.uncertainty["a"].covariance - before.uncertainty["a"].covariance).max() > 0
