"""Tables of uncertainties and of branches say what metrics hold, and what that is not good for."""

from __future__ import annotations

import csv

from matplotlib.figure import Figure

from mtlpar.core.files import read_json
from mtlpar.report import stage
from mtlpar.report.branches import branch_grid
from mtlpar.report.calibration import draw_calibration
from mtlpar.report.uncertainty import uncertainty_grid


def rows_of(fake_run, name: str) -> list[dict[str, str]]:
    stage.run(name, scope=fake_run.scope)
    path = fake_run.workspace.tables / f"{name}.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_row_for_every_source_that_a_model_learned(fake_run) -> None:
    rows = rows_of(fake_run, "uncertainty")
    # Five models of a source each, and two of all five.
    assert len(rows) == 15
    mptrj, ani1x = (
        next(row for row in rows if (row["model"], row["source"]) == ("mtl", source))
        for source in ("mptrj", "ani1x")
    )
    assert mptrj["level_of_theory"] == "made up"
    assert (mptrj["coverage_90"], mptrj["auroc_pair_never_seen"]) == ("0.81", "0.55")
    assert (ani1x["num_pair_never_seen"], ani1x["auroc_pair_never_seen"]) == ("0", "")


def test_a_poor_separation_is_called_so(fake_run) -> None:
    caption = uncertainty_grid(fake_run.scope).caption
    # Two crystals in three models each have an area of 0.55 for pairs, beside fifteen for groups.
    assert "In 6 of 21 cases the area is below 0.6" in caption
    for source in ("mptrj", "alexandria"):
        for model in (source, "baseline", "mtl"):
            good = read_json(fake_run.workspace.metrics(model, source))["uncertainty"]
            good |= {"auroc_pair_never_seen": 0.9}
            fake_run.change_metrics(model, source, uncertainty=good)
    assert "In " not in uncertainty_grid(fake_run.scope).caption


def test_models_of_earlier_versions_have_a_table_that_says_so(fake_run) -> None:
    for model, trained_on in fake_run.scope.models.items():
        for source in trained_on:
            fake_run.change_metrics(model, source, uncertainty=None)
    stage.run("uncertainty", scope=fake_run.scope)
    text = (fake_run.workspace.tables / "uncertainty.md").read_text(encoding="utf-8")
    assert "No model of this run knows any" in text
    assert isinstance(draw_calibration(fake_run.scope), Figure)


def test_a_line_shows_what_was_observed(fake_run) -> None:
    figure = draw_calibration(fake_run.scope)
    lines = figure.axes[0].lines
    # Two models of several sources, and the line of those that are calibrated.
    assert len(lines) == 3
    x, y = lines[0].get_data()
    assert list(y) == [level**2 for level in x]


def test_branches_that_did_not_learn_a_source_are_set_apart(fake_run) -> None:
    path = fake_run.workspace.metrics("mtl", "qm7x")
    zero = read_json(path)["zero_predictor"]
    tried = {
        branch: {
            "force_mae_ev_per_angstrom": error,
            "offset_structures": 32,
            "num_structures": 68,
            "unknown_elements": unknown,
            "zero_predictor": zero,
        }
        for branch, error, unknown in (("ani1x", 0.25, ["S"]), ("mptrj", 0.75, []))
    }
    fake_run.change_metrics("mtl", "qm7x", branch=None, zero_shot=tried)
    grid = branch_grid(fake_run.scope)
    column = grid.header.index("QM7-X")
    cells = {row[1].text: row[column] for row in grid.rows if row[0].text.startswith("GFM-MTL")}
    assert cells["ani1x"].text == "0.250*"
    assert cells["mptrj"].text == "0.750"
    assert not cells["mptrj"].bold
    own = next(row for row in grid.rows if row[0].text == "GFM-ANI1x" and row[1].text == "ani1x")
    assert own[grid.header.index("ANI1x")].bold
    rows = rows_of(fake_run, "branches")
    (mine,) = (
        r for r in rows if (r["model"], r["branch"], r["source"]) == ("mtl", "ani1x", "qm7x")
    )
    assert (mine["offset_structures"], mine["unknown_elements"]) == ("32", "S")
