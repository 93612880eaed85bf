"""What forces say of the units and the sign of new labels, before anything is trained."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from helpers import make_structures

from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch
from mtlpar.finetune.branches import Candidate, candidates_text
from mtlpar.model.settings import ModelSettings
from mtlpar.train.recipe import Recipe
from mtlpar.train.settings import TrainSettings
from mtlpar.train.stage import labels_not_learned
from mtlpar.train.start_references import FloatArray, StartFit, ratio_of_forces

MAE = {"energy_mae_ev_per_atom": 0.1, "force_mae_ev_per_angstrom": 0.2}


def labelled_and_predicted(scale: float) -> tuple[StructureBatch, FloatArray]:
    """Labels in another unit, and predictions of their true values that are 20 % off."""
    structures = make_structures(30, seed=1)
    true = structures.forces.astype(np.float64)
    noise = np.random.default_rng(0).normal(size=true.shape)
    noise *= 0.2 * np.linalg.norm(true, axis=1, keepdims=True) / np.sqrt(3)
    structures.forces[:] *= np.float32(scale)
    return structures, true + noise


@pytest.mark.parametrize("scale", [1.0, 27.2, 1 / 23.06, -1.0])
def test_a_unit_and_a_sign_show_in_the_ratio_of_forces(scale: float) -> None:
    structures, predicted = labelled_and_predicted(scale)
    assert ratio_of_forces(structures, predicted) == pytest.approx(scale, rel=0.1)


def test_a_few_atoms_that_are_pressed_together_do_not_decide() -> None:
    # They have nearly all of the sum of squares, which least squares would follow.
    structures, predicted = labelled_and_predicted(1.0)
    structures.forces[:3] *= 1e4
    assert ratio_of_forces(structures, predicted) == pytest.approx(1, rel=0.1)


def test_a_start_that_knows_no_directions_says_nothing_of_units() -> None:
    structures, predicted = labelled_and_predicted(27.2)
    assert ratio_of_forces(structures, predicted[::-1]) is None
    assert ratio_of_forces(structures, 0 * predicted) is None
    structures.forces_mask[:] = 0
    assert ratio_of_forces(structures, predicted) is None


@pytest.mark.parametrize(
    ("ratio", "told"),
    [
        (27.2, "27.2 times as large.*check energy_unit and length_unit"),
        (1 / 23.06, "0.0434 times as large.*check energy_unit"),
        (-1.0, "forces point against.*gradients"),
    ],
)
def test_a_doubt_about_labels_is_under_the_table_of_starts(ratio: float, told: str) -> None:
    fit = StartFit(references=References({"H": -13.0}), errors=MAE, sizes=MAE, force_ratio=ratio)
    one = Candidate(branch="a", levels=("PBE",), fit=fit, unknown=())
    sound = Candidate(branch="b", levels=("PBE",), fit=replace(fit, force_ratio=2.0), unknown=())
    last = candidates_text([one, sound], chosen="a").splitlines()[-1]
    assert last.startswith("warning: ")
    assert re.search(told, last)
    assert "warning" not in candidates_text([one, sound], chosen="b")


def test_stresses_that_are_not_learned_name_the_setting_that_learns_them_in_this_model() -> None:
    # The global model.head.forces says nothing of a model that starts from a file.
    recipe = SimpleNamespace(
        name="tuned",
        model_settings=ModelSettings(),
        settings=TrainSettings(),
        headers={"own": SimpleNamespace(num_labels={"energy": 2, "forces": 2, "stress": 2})},
    )
    (told,) = labels_not_learned(cast(Recipe, recipe))
    assert told.endswith("models.tuned.model.head.forces=conservative learns it")
