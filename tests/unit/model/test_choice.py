"""A source is chosen for what its training data are like, or none is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from networks import make_network, make_uncertainty

from mtlpar.core.references import References
from mtlpar.model.choice import Cloud, SourceChooser
from mtlpar.model.saved import SavedModel
from mtlpar.model.uncertainty import BranchUncertainty, quantiles

LIGHT = {"H": -13.6, "C": -1029.4, "O": -2041.8}


def rattled(atoms: Atoms, count: int, seed: int) -> list[Atoms]:
    """Copies whose atoms are moved a little, and more or less squeezed."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        copy = atoms.copy()
        copy.positions *= rng.uniform(0.95, 1.05)
        copy.positions += rng.normal(scale=0.05, size=copy.positions.shape)
        found.append(copy)
    return found


@pytest.fixture(scope="module")
def model() -> SavedModel:
    """Branches that learned water, methanol and, with further elements, a crystal."""
    network = make_network().double().eval()
    seen = {
        "water": rattled(molecule("H2O"), 60, 1),
        "methanol": rattled(molecule("CH3OH"), 60, 2),
        "crystal": rattled(bulk("CO", "rocksalt", a=4.0, cubic=True), 60, 3),
    }
    plain = SavedModel(
        network=network,
        settings=network.settings,
        branches={"a": ("water", "methanol"), "b": ("crystal",)},
        references={
            "water": References(LIGHT),
            "methanol": References(LIGHT),
            "crystal": References({**LIGHT, "Po": -1.0}),
        },
        level_of_theory=dict.fromkeys(seen, "made up"),
    )
    found = {}
    for branch, sources in plain.branches.items():
        made = make_uncertainty(network, *sources)
        found[branch] = BranchUncertainty.model_validate(
            {
                **dict(made),
                "sources": {
                    source: {**dict(made.sources[source]), **spread_of(plain, seen[source], source)}
                    for source in sources
                },
            }
        )
    plain.uncertainty.update(found)  # type: ignore[attr-defined]
    return plain


def descriptors_of(model: SavedModel, structures: list[Atoms], source: str) -> np.ndarray:
    predicted = model.predict(structures, source=source, descriptors=True)
    return np.array([one.descriptors for one in predicted])


def spread_of(model: SavedModel, structures: list[Atoms], source: str) -> dict[str, torch.Tensor]:
    rows = descriptors_of(model, structures, source)
    train, validation = rows[:40], rows[40:]
    whole = np.append(train, np.ones((len(train), 1)), axis=1)
    spread = whole.T @ whole / len(whole)
    return {
        "spread": torch.from_numpy(spread),
        "distances": quantiles(Cloud.of(spread).squared_distance(validation)),
    }


def test_what_is_like_a_source_is_given_to_it(model: SavedModel) -> None:
    chooser = SourceChooser(model)
    for atoms, source in (("H2O", "water"), ("CH3OH", "methanol")):
        new = rattled(molecule(atoms), 20, 7)
        found = chooser.choose(new, batch_atoms=50)
        assert sum(choice.source == source for choice in found) >= 17
        assert {choice.source for choice in found} <= {source, None}
        assert found[0].reason.startswith("likeliest of 3 that know its elements; distances water ")


def test_what_is_like_none_is_refused_with_the_distances(model: SavedModel) -> None:
    (found,) = SourceChooser(model).choose([molecule("C6H6")], batch_atoms=50)
    assert found.source is None
    assert found.reason.startswith("fits no source: unlike the training data; distance")
    assert all(f"{source} " in found.reason for source in model.sources)


def test_an_element_decides_before_any_distance(model: SavedModel) -> None:
    polonium, gold = Atoms("Po"), Atoms("Au")
    found = SourceChooser(model).choose([polonium, gold, molecule("H2O")], batch_atoms=50)
    # Only the crystals' source knows polonium, and has seen nothing like one atom of it.
    assert found[0].source is None
    assert "crystal" in found[0].reason
    assert "water" not in found[0].reason
    assert found[1].reason == (
        "fits no source: element never seen: Au with water, methanol, crystal"
    )
    assert found[2].source == "water"


def test_distances_and_densities_are_those_of_a_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)) + [1, 2, 3, 4]
    whole = np.append(rows, np.ones((500, 1)), axis=1)
    cloud = Cloud.of(whole.T @ whole / 500)
    covariance = np.cov(rows.T, bias=True)
    covariance += 1e-5 * np.trace(covariance) / 4 * np.eye(4)
    new = rng.normal(size=(6, 4))
    away = new - rows.mean(axis=0)
    expected = np.diag(away @ np.linalg.inv(covariance) @ away.T)
    np.testing.assert_allclose(cloud.squared_distance(new), expected, rtol=1e-8)
    assert cloud.log_determinant == pytest.approx(np.linalg.slogdet(covariance)[1], rel=1e-8)


def test_atoms_on_one_another_cost_no_other_structure(model: SavedModel) -> None:
    wrong = Atoms("O2", np.zeros((2, 3)))
    found = SourceChooser(model).choose([molecule("H2O"), wrong], batch_atoms=50)
    assert found[0].source == "water"
    assert found[1].source is None
    assert "not finite" in found[1].reason


def test_a_model_that_knows_nothing_of_its_data_says_so(model: SavedModel) -> None:
    plain = SavedModel(
        network=model.network,
        settings=model.settings,
        branches=model.branches,
        references=model.references,
        level_of_theory=model.level_of_theory,
    )
    with pytest.raises(ValueError, match=r"a version that did not measure it.*Name one of its"):
        SourceChooser(plain)
