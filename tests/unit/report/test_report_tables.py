"""What the tables say, and which numbers are set in bold."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from mtlpar.core.files import read_json
from mtlpar.core.ledger import Ledger
from mtlpar.report import stage
from mtlpar.report.items import ENERGY_MAE, table_names
from mtlpar.report.load import ErrorTable
from mtlpar.report.tables import error_grid, summary_text

KEYS = {
    "table1": "energy_mae_ev_per_atom",
    "table2": "force_mae_ev_per_angstrom",
    "table3": "energy_rmse_ev_per_atom",
    "table4": "force_rmse_ev_per_angstrom",
}


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def bold_texts(errors: dict[str, dict[str, float]], zero: dict[str, float]) -> dict[str, list[str]]:
    table = ErrorTable(quantity=ENERGY_MAE, errors=errors, zero=zero)
    grid = error_grid(table, models={name: (name,) for name in errors}, label="t")
    return {
        column: [row[0].text for row in grid.rows if row[index].bold]
        for index, column in enumerate(grid.header)
    }


@pytest.mark.parametrize("name", KEYS)
def test_csv_holds_every_digit_of_the_metrics(fake_run, name: str) -> None:
    stage.run(name, scope=fake_run.scope)
    workspace, models = fake_run.workspace, fake_run.scope.models

    *rows, zero = read_rows(workspace.tables / f"{name}.csv")

    assert [row["model"] for row in rows] == list(models)
    assert zero["model"] == "predict_zero"
    for row in rows:
        for source in fake_run.scope.sources:
            content = read_json(workspace.metrics(row["model"], source))
            assert float(row[source]) == content[KEYS[name]]
            assert float(zero[source]) == content["zero_predictor"][KEYS[name]]


def test_the_last_column_is_the_mean_over_test_sets(fake_run) -> None:
    stage.run("table1", scope=fake_run.scope)

    for row in read_rows(fake_run.workspace.tables / "table1.csv"):
        values = [float(row[source]) for source in fake_run.scope.sources]
        assert list(row)[-1] == "mean"
        assert float(row["mean"]) == pytest.approx(math.fsum(values) / 5, rel=1e-15)


def test_bold_picks_the_smallest_at_full_precision() -> None:
    bold = bold_texts({"a": {"s": 0.12341}, "b": {"s": 0.12340}}, {"s": 1.0})

    assert bold["s"] == ["GFM-b"]
    assert bold["Model"] == []


def test_ties_are_all_bold() -> None:
    bold = bold_texts({"a": {"s": 0.5}, "b": {"s": 0.5}, "c": {"s": 0.6}}, {"s": 1.0})

    assert bold["s"] == bold["Mean"] == ["GFM-a", "GFM-b"]


def test_predicting_zero_is_never_bold() -> None:
    bold = bold_texts({"a": {"s": 0.5}, "b": {"s": 0.7}}, {"s": 0.1})

    assert bold["s"] == bold["Mean"] == ["GFM-a"]


def test_the_mean_has_a_best_of_its_own() -> None:
    errors = {"a": {"s": 0.1, "t": 9.0}, "b": {"s": 0.2, "t": 1.0}}

    bold = bold_texts(errors, {"s": 1.0, "t": 1.0})

    assert (bold["s"], bold["t"], bold["Mean"]) == (["GFM-a"], ["GFM-b"], ["GFM-b"])


def test_what_a_model_was_not_tested_on_is_a_dash_and_leaves_it_without_a_mean(fake_run) -> None:
    fake_run.change_metrics("mtl", "qm7x", branch=None)

    stage.run("table2", scope=fake_run.scope)

    folder = fake_run.workspace.tables
    row = next(row for row in read_rows(folder / "table2.csv") if row["model"] == "mtl")
    assert (row["qm7x"], row["mean"]) == ("", "")
    assert float(row["ani1x"]) > 0
    text = (folder / "table2.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "GFM-MTL-All" in line)
    assert [cell.strip() for cell in line.split("|")].count("–") == 2
    assert "–: the model has no branch for that source." in text
    assert (folder / "table2.tex").read_text(encoding="utf-8").count("--") == 3


def test_the_best_of_a_column_is_one_that_was_tested() -> None:
    bold = bold_texts({"a": {"s": math.nan}, "b": {"s": 0.5}}, {"s": 1.0})

    assert bold["s"] == bold["Mean"] == ["GFM-b"]


def test_rows_and_columns_follow_the_config(fake_run) -> None:
    stage.run("table1", scope=fake_run.scope)

    lines = (fake_run.workspace.tables / "table1.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]

    assert cells[0] == [
        "Model", "ANI1x", "QM7-X", "MPTrj", "Alexandria", "Transition1x", "Mean"
    ]  # fmt: skip
    assert [row[0] for row in cells[2:]] == [
        "GFM-ANI1x",
        "GFM-QM7-X",
        "GFM-MPTrj",
        "GFM-Alexandria",
        "GFM-Transition1x",
        "GFM-Baseline-All",
        "GFM-MTL-All",
        "Predict zero",
    ]


def test_ledger_rows_balance_and_add_up_to_the_total(fake_run) -> None:
    stage.run("ledger", scope=fake_run.scope)

    *rows, total = read_rows(fake_run.workspace.tables / "ledger.csv")

    for row in rows:
        numbers = {key: int(value) for key, value in row.items() if key != "source"}
        assert numbers.pop("lost") == 0
        assert numbers.pop("rows") == sum(numbers.values())
    assert total["source"] == "total"
    for key in set(total) - {"source"}:
        assert int(total[key]) == sum(int(row[key]) for row in rows)


def test_a_ledger_that_does_not_balance_is_refused(fake_run) -> None:
    path = fake_run.workspace.ledger("mptrj")
    ledger = Ledger.read(path)
    path.write_text(json.dumps(ledger.as_dict("mptrj") | {"train": 1}), encoding="utf-8")

    with pytest.raises(ValueError, match=r"mptrj\.json does not balance"):
        stage.run("ledger", scope=fake_run.scope)
    assert not fake_run.workspace.tables.exists()


def test_summary_shows_both_tables_and_where_the_rest_is(fake_run) -> None:
    text = summary_text(fake_run.scope, report=Path("report.html"))

    for part in ("Energy MAE (eV/atom)", "Force MAE (eV/Å)", "GFM-MTL-All", "report.html"):
        assert part in text
    assert str(fake_run.workspace.tables) in text
    assert str(fake_run.workspace.figures) in text
    assert max(map(len, text.splitlines()[:12])) <= 88


@pytest.mark.parametrize("name", table_names())
def test_same_input_gives_the_same_bytes(fake_run, name: str) -> None:
    stage.run(name, scope=fake_run.scope)
    first = {path: path.read_bytes() for path in fake_run.workspace.tables.iterdir()}

    stage.run(name, scope=fake_run.scope)

    assert {path: path.read_bytes() for path in fake_run.workspace.tables.iterdir()} == first
