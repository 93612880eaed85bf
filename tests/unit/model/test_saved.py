"""A saved model predicts what the trained one did, in total energies, or refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from networks import edit_model

import mtlpar
from mtlpar.core.paths import Workspace
from mtlpar.evaluate import stage as evaluate
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.model.file import load_model
from mtlpar.model.upgrades import FORMAT_VERSION
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack

SOURCES = ("ani1x", "qm7x", "mptrj", "alexandria", "transition1x")


@pytest.fixture(scope="module")
def trained(straight: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A trained model, with results of its own beside it."""
    results = tmp_path_factory.mktemp("trained")
    for name in ("packed", "models"):
        (results / name).symlink_to(straight.results / name)
    return Workspace(raw=straight.raw, results=results)


def test_model_file_holds_nothing_but_plain_values_and_tensors(trained: Workspace) -> None:
    content = torch.load(trained.model("mtl"), weights_only=True)
    assert set(content["branches"]) == set(SOURCES)
    assert content["references_ev"]["qm7x"].keys() == {"H", "C", "O"}
    assert "heads.ani1x.energy.0.weight" in content["state"]


def test_a_model_prints_as_one_line_and_not_as_its_network(trained: Workspace) -> None:
    shown = repr(load_model(trained.model("mtl")))
    assert "egnn, heads ani1x, qm7x, mptrj" in shown
    assert len(shown) < 120


@pytest.mark.filterwarnings("ignore::mtlpar.calculator.DirectForcesWarning")
@pytest.mark.parametrize("source", SOURCES)
def test_calculator_gives_total_energies_that_match_the_labels(
    trained: Workspace, source: str
) -> None:
    # Totals are thousands of eV; the model is off by at most a few eV per atom. Forgotten or
    # foreign references would be off by thousands.
    dataset = PackedDataset(Pack.open(trained.pack(source, "train")))
    one = dataset.structures.slice(0, 1)
    atoms = Atoms(one.atomic_numbers, one.positions)
    atoms.calc = mtlpar.Calculator(trained.model("mtl"), source=source)
    assert abs(atoms.get_potential_energy() - one.energy[0]) / len(atoms) < 5.0
    assert atoms.get_forces().shape == (len(atoms), 3)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_a_model_with_several_levels_of_theory_never_picks_one(trained: Workspace) -> None:
    with pytest.raises(ValueError, match=r"several levels of theory; name one as source.*qm7x"):
        mtlpar.Calculator(trained.model("mtl"))
    with pytest.raises(ValueError, match=r"no source is called 'oc20'; .* ani1x"):
        mtlpar.Calculator(trained.model("mtl"), source="oc20")


@pytest.mark.filterwarnings("ignore::mtlpar.calculator.DirectForcesWarning")
def test_an_element_the_source_does_not_have_is_refused(trained: Workspace) -> None:
    atoms = Atoms("UO2", [[0, 0, 0], [1.8, 0, 0], [-1.8, 0, 0]])
    atoms.calc = mtlpar.Calculator(trained.model("mtl"), source="ani1x")
    with pytest.raises(ValueError, match=r"no reference energy for U"):
        atoms.get_potential_energy()


def test_missing_and_foreign_files_are_refused(trained: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no model at .*; correct the path, or train it"):
        mtlpar.load_model(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"is a folder; expected a model file, such as .*model.pt"):
        mtlpar.load_model(tmp_path)
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match="not a model file of mtlpar: it holds weights and no form"
    ):
        mtlpar.load_model(tmp_path / "other.pt")
    torch.save({"format_version": 1}, tmp_path / "other.pt")
    known = f"reads 2 to {FORMAT_VERSION}"
    with pytest.raises(ValueError, match=f"model format 1; this version of mtlpar {known}"):
        mtlpar.load_model(tmp_path / "other.pt")


def test_evaluation_does_not_depend_on_the_size_of_its_batches(
    trained: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    found = []
    for batch_atoms in (1, 37, 100_000):
        evaluate.run(
            "mtl",
            workspace=trained,
            settings=EvaluateSettings(batch_atoms=batch_atoms),
            sources=SOURCES,
            seed=0,
        )
        found.append([trained.metrics("mtl", source).read_text() for source in SOURCES])
    # Equal to the last printed digit of a double, but for the order of sums inside a batch.
    for texts in zip(*found, strict=True):
        numbers = [json.loads(text)["force_mae_ev_per_angstrom"] for text in texts]
        np.testing.assert_allclose(numbers, numbers[0], rtol=1e-12)


def test_a_model_is_not_tested_on_a_source_that_none_of_its_branches_learned(
    trained: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    # As after a start without that branch; the sources behind it are tested all the same.
    workspace = copy_of(trained)
    gone = SOURCES[1]

    def without_it(content: dict[str, Any]) -> None:
        for part in ("branches", "references_ev", "level_of_theory"):
            del content[part][gone]
        for name in [name for name in content["state"] if name.startswith(f"heads.{gone}.")]:
            del content["state"][name]

    workspace.model("mtl").parent.mkdir(parents=True)
    copyfile(trained.model("mtl"), workspace.model("mtl"))
    edit_model(workspace.model("mtl"), without_it)
    evaluate.run("mtl", workspace=workspace, settings=EvaluateSettings(), sources=SOURCES, seed=0)
    for source in SOURCES:
        metrics = json.loads(workspace.metrics("mtl", source).read_text())
        assert metrics["branch"] == (None if source == gone else source)
        # Each branch is tried on it, with offsets from structures that are not tested on.
        tried = metrics.get("zero_shot", {})
        assert set(tried) == (set(SOURCES) - {gone} if source == gone else set())
        for errors in tried.values():
            assert (
                errors["offset_structures"] + errors["num_structures"] == metrics["num_structures"]
            )
            assert errors["force_mae_ev_per_angstrom"] > 0
            assert errors["unknown_elements"] == []
        assert ("force_mae_ev_per_angstrom" in metrics) == (source != gone)
        assert metrics["zero_predictor"]["force_mae_ev_per_angstrom"] > 0
        with np.load(workspace.predictions("mtl", source)) as sample:
            assert (len(sample["energy_prediction_ev_per_atom"]) > 0) == (source != gone)


def test_a_file_with_other_branches_is_not_the_model_of_that_name(trained: Workspace) -> None:
    with pytest.raises(
        ValueError, match=r"has the branches ani1x \[ani1x\].*says all \[ani1x, qm7x\]"
    ):
        evaluate.run(
            "mtl",
            workspace=trained,
            settings=EvaluateSettings(),
            sources=SOURCES,
            seed=0,
            branches={"all": ("ani1x", "qm7x")},
        )


def test_foreign_sources_go_through_the_only_branch_but_never_through_a_guess(
    trained: Workspace, tmp_path: Path
) -> None:
    model = load_model(trained.model("mtl"))
    assert model.branch_for_foreign("qm7x") == "qm7x"
    assert model.branch_for_foreign("spice") is None
