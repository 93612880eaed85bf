"""Inputs that are missing or unusable are named."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from mtlpar.report import stage
from mtlpar.report.items import inputs_of, table_names
from mtlpar.report.load import read_history


@pytest.mark.parametrize(
    "name", ["table1", "ledger", "heatmap_force", "parity_energy", "learning_curves"]
)
def test_a_missing_file_is_named(fake_run, name: str) -> None:
    missing = inputs_of(name, fake_run.scope)[-1]
    missing.unlink()

    with pytest.raises(ValueError, match=rf"{re.escape(str(missing))} is missing; run"):
        stage.run(name, scope=fake_run.scope)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0.1", True])
def test_an_error_that_is_no_finite_number_is_refused(fake_run, value) -> None:
    path = fake_run.workspace.metrics("mtl", "qm7x")
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"energy_mae_ev_per_atom": value}), encoding="utf-8")

    with pytest.raises(ValueError, match=r"mtl/qm7x\.json: energy_mae_ev_per_atom is"):
        stage.run("table1", scope=fake_run.scope)


def test_metrics_of_another_model_are_refused(fake_run) -> None:
    fake_run.change_metrics("mtl", "qm7x", model="baseline")

    with pytest.raises(ValueError, match=r"qm7x\.json: model is 'baseline', expected 'mtl'"):
        stage.run("table2", scope=fake_run.scope)


def test_models_tested_on_different_structures_are_refused(fake_run) -> None:
    zero = dict.fromkeys(("energy_mae_ev_per_atom", "force_mae_ev_per_angstrom"), 7.0)
    fake_run.change_metrics("mtl", "qm7x", zero_predictor=zero)

    with pytest.raises(ValueError, match="tested on different structures"):
        stage.run("table1", scope=fake_run.scope)


def test_predictions_that_are_not_finite_are_counted_and_named(fake_run) -> None:
    path = fake_run.workspace.predictions("mtl", "qm7x")
    with np.load(path) as content:
        arrays = dict(content)
    arrays["energy_prediction_ev_per_atom"][:2] = np.nan
    np.savez(path, **arrays)

    with pytest.raises(ValueError, match=r"mtl/qm7x\.npz: 2 of 120 values of energy_prediction"):
        stage.run("parity_energy", scope=fake_run.scope)


def test_predictions_of_another_length_are_refused(fake_run) -> None:
    path = fake_run.workspace.predictions("baseline", "ani1x")
    with np.load(path) as content:
        arrays = dict(content)
    arrays["energy_label_ev_per_atom"] = np.zeros(3)
    np.savez(path, **arrays)

    with pytest.raises(ValueError, match=r"ani1x\.npz: energy_label_ev_per_atom has shape \(3,\)"):
        stage.run("parity_energy", scope=fake_run.scope)


def test_a_damaged_archive_is_named(fake_run) -> None:
    path = fake_run.workspace.predictions("mtl", "mptrj")
    path.write_bytes(path.read_bytes()[:50])

    with pytest.raises(ValueError, match=r"mtl/mptrj\.npz cannot be read"):
        stage.run("parity_force", scope=fake_run.scope)


def test_a_missing_array_is_named(fake_run) -> None:
    path = fake_run.workspace.predictions("mtl", "mptrj")
    np.savez(path, other=np.zeros(3))

    with pytest.raises(ValueError, match=r"mptrj\.npz has no array .*force_label_ev_per_angstrom"):
        stage.run("parity_force", scope=fake_run.scope)


def test_of_an_epoch_that_was_run_again_the_last_one_counts(tmp_path) -> None:
    def line(epoch: int, error: float) -> str:
        errors = {"energy_mae_ev_per_atom": error, "force_mae_ev_per_angstrom": error}
        return json.dumps({"kind": "epoch", "epoch": epoch, "is_best": True, "val": {"s": errors}})

    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join([line(0, 3.0), line(1, 2.0), line(1, 1.0)]), encoding="utf-8")

    history = read_history(path, ["s"])

    assert [epoch.errors["s"]["energy_mae_ev_per_atom"] for epoch in history] == [3.0, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "step"}\n', 'has no line of kind "epoch"'),
        ('{"kind": "step"}\n{"kind', "line 2 is not valid JSON"),
        ('{"kind": "epoch", "epoch": 0, "val": {}}', r"line 1: val\.s\.energy_mae.* is missing"),
    ],
)
def test_a_damaged_history_is_named(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ValueError, match=rf"metrics\.jsonl.*{message}"):
        read_history(path, ["s"])


@pytest.mark.parametrize("name", table_names())
def test_nothing_is_written_when_an_input_is_missing(fake_run, name: str) -> None:
    inputs_of(name, fake_run.scope)[0].unlink()

    with pytest.raises(ValueError, match="is missing"):
        stage.run(name, scope=fake_run.scope)
    assert not fake_run.workspace.tables.exists()
