"""Branches tried on a source that none of them learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.data import chemical_symbols
from helpers import ELEMENT_ENERGIES_EV, make_structures, make_workspace, write_extracted
from training import MODEL, run_alone

from mtlpar.core.paths import Workspace
from mtlpar.evaluate import stage
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.evaluate.zero_shot import OFFSET_STRUCTURES, zero_shot
from mtlpar.model.file import load_model
from mtlpar.model.predict import predict_batches
from mtlpar.model.saved import SavedModel
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack

OFFSETS_EV = {symbol: 100.0 + index for index, symbol in enumerate(ELEMENT_ENERGIES_EV)}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A model of two sources, and a third one labelled by its second branch, but for offsets."""
    found = make_workspace(tmp_path_factory.mktemp("zero"), {"first": 40, "second": 40})
    run_alone(found, {"a": ("first",), "b": ("second",)}, epochs=3, source_weights={})
    model = load_model(found.model("mtl"))
    structures = make_structures(160, seed=50)
    (part,) = predict_batches(
        model.network, structures, branch="b", graph=MODEL.graph, batch_atoms=10**6
    )
    table = np.array([OFFSETS_EV.get(symbol, 0.0) for symbol in chemical_symbols])
    owner = np.repeat(np.arange(len(structures)), structures.num_atoms)
    structures.energy[:] = part.energy_per_atom * structures.num_atoms + np.bincount(
        owner, table[structures.atomic_numbers]
    )
    structures.forces[:] = part.forces
    write_extracted(found, "third", structures)
    fractions = NormalizeSettings(val_fraction=0.1, test_fraction=0.5)
    normalize.run("third", workspace=found, settings=fractions, seed=0)
    pack.run("third", workspace=found, settings=PackSettings(), seed=0)
    return found


def tried(workspace: Workspace) -> tuple[SavedModel, dict[str, dict[str, float]]]:
    model = load_model(workspace.model("mtl"))
    dataset = PackedDataset(Pack.open(workspace.pack("third", "test")))
    return model, zero_shot(model, dataset, EvaluateSettings())


def test_the_branch_of_the_same_level_is_first_and_has_no_error_but_its_offsets(
    workspace: Workspace,
) -> None:
    # Offsets of a hundred eV that are not fitted, or fitted to the wrong structures, would show.
    _, found = tried(workspace)
    assert list(found) == ["b", "a"]
    assert found["b"]["energy_mae_ev_per_atom"] < 1e-5
    assert found["b"]["force_mae_ev_per_angstrom"] < 1e-5
    assert found["a"]["force_mae_ev_per_angstrom"] > 1e-3


def test_structures_that_offsets_were_fitted_to_are_not_tested_on(workspace: Workspace) -> None:
    _, found = tried(workspace)
    total = len(Pack.open(workspace.pack("third", "test")))
    for errors in found.values():
        assert errors["offset_structures"] == OFFSET_STRUCTURES
        assert errors["num_structures"] == total - OFFSET_STRUCTURES
        assert errors["unknown_elements"] == []


@pytest.mark.parametrize("size", [1, 4])
def test_without_energies_to_fit_offsets_to_forces_are_tested_alone(
    workspace: Workspace, size: int
) -> None:
    # Of one structure none is left to fit to; errors with the offsets of another level would say
    # nothing, and hundreds of eV.
    dataset = PackedDataset(Pack.open(workspace.pack("third", "test"))).part(0, size)
    dataset.structures.energy_mask[: size // 2] = 0
    found = zero_shot(load_model(workspace.model("mtl")), dataset, EvaluateSettings())
    for errors in found.values():
        assert errors["offset_structures"] == 0
        assert errors["num_structures"] == size - size // 2
        assert errors["force_mae_ev_per_angstrom"] >= 0
        assert "energy_mae_ev_per_atom" not in errors


def test_the_only_branch_is_tried_on_any_source_and_the_log_counts_elements_new_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = make_workspace(tmp_path, {"first": 40})
    run_alone(workspace, {"a": ("first",)}, epochs=1, source_weights={})
    structures = make_structures(40, seed=50)
    # Gold and tin in all of them, whichever are tested on.
    structures.atomic_numbers[structures.offsets[:-1]] = 79
    structures.atomic_numbers[structures.offsets[:-1] + 1] = 50
    write_extracted(workspace, "second", structures)
    normalize.run("second", workspace=workspace, settings=NormalizeSettings(), seed=0)
    pack.run("second", workspace=workspace, settings=PackSettings(), seed=0)
    with caplog.at_level("INFO"):
        stage.run(
            "mtl",
            workspace=workspace,
            settings=EvaluateSettings(),
            sources=["first", "second"],
            seed=0,
        )
    told = [text for text in caplog.messages if text.startswith("mtl on ")]
    assert "never saw" not in told[0]
    assert told[1].startswith("mtl on second: MAE energy")
    assert told[1].endswith("; it never saw 2 elements of these")
