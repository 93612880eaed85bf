"""The transfer study says how many labels a start saves, seed by seed, and what it forgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtlpar.core.files import write_json
from mtlpar.core.measurements import TransferRecord
from mtlpar.core.paths import Workspace
from mtlpar.report.studies import write_study
from mtlpar.report.style import house_style, legend_above
from mtlpar.report.transfer import curves_of, labels_saved, transfer_grid

LABELS = (10, 100, 1000)


def _cell(
    labels: int, start: str | None, forces: float, pretraining: float = 0.0
) -> dict[str, Any]:
    learned = {"ani1x": {"energy": 0.2 * pretraining, "forces": 0.4 * pretraining}}
    return {
        "labels": labels,
        "start": start,
        "mode": "" if start is None else "full",
        "errors": {"energy": forces / 10, "forces": forces},
        "pretraining": {} if start is None else learned,
    }


def _record(seed: int, *, factor: float) -> dict[str, Any]:
    """Errors that fall as the square root of the labels; a start that halves them."""
    scratch = {labels: factor / np.sqrt(labels) for labels in LABELS}
    return {
        "family": "molecules",
        "level_of_theory": "other",
        "single": "qm7x",
        "seed": seed,
        "steps": 200,
        "num_test": 50,
        "before": {"mtl": {"ani1x": {"energy": 0.2, "forces": 0.4}}},
        "cells": [
            *(_cell(labels, None, error) for labels, error in scratch.items()),
            *(
                _cell(labels, "mtl", error / 2, pretraining=3.0)
                for labels, error in scratch.items()
            ),
        ],
    }


def _typed(*records: dict[str, Any]) -> list[TransferRecord]:
    return [TransferRecord.model_validate_json(json.dumps(record)) for record in records]


def test_half_the_error_of_a_square_root_law_saves_three_quarters_of_the_labels() -> None:
    scratch = {labels: 1 / np.sqrt(labels) for labels in LABELS}
    assert labels_saved(scratch, 100, 0.5 / np.sqrt(100)) == pytest.approx(4.0)
    # Halfway between two numbers of labels on logarithmic axes, not on linear ones.
    assert labels_saved(scratch, 10, 1 / np.sqrt(np.sqrt(10 * 100))) == pytest.approx(np.sqrt(10))


def test_an_error_that_scratch_never_reaches_saves_more_than_can_be_said() -> None:
    assert labels_saved({10: 1.0, 100: 0.5}, 10, 0.4) == np.inf


def test_a_curve_from_scratch_that_rises_by_chance_is_smoothed() -> None:
    # Ten labels did as well as 1,000 by chance; taken as they are, an error of 0.5 would need ten.
    scratch = {10: 0.5, 100: 1.0, 1000: 0.5}
    # The first two count as one value, the geometric mean of 0.5 and 1.0.
    assert labels_saved(scratch, 10, np.sqrt(0.5)) == pytest.approx(1.0)
    assert labels_saved(scratch, 100, 0.5) == pytest.approx(10.0)


def test_the_model_of_one_source_has_one_name_in_all_families() -> None:
    record = _record(0, factor=1.0)
    record["cells"].append(_cell(10, "qm7x", 0.1, pretraining=1.0))
    record["before"]["qm7x"] = record["before"]["mtl"]
    assert "single source, full" in curves_of(_typed(record))["molecules"]


def test_the_table_has_means_ranges_and_what_was_forgotten() -> None:
    grid = transfer_grid(_typed(_record(0, factor=1.0), _record(1, factor=3.0)))
    rows = {(row[1].text, row[2].text): [cell.text for cell in row] for row in grid.rows}
    assert len(rows) == 2 * len(LABELS)
    scratch, started = rows["10", "scratch"], rows["10", "mtl, full"]
    # Mean and range of 1 and 3 over the square root of ten.
    assert scratch[5:7] == ["0.632", "0.316 to 0.949"]
    assert started[7:] == ["0.50", "4.0", "4.0 to 4.0", "3.00"]
    assert scratch[8:] == ["", "", ""]
    # At the largest number of labels nothing says how many more scratch would need.
    assert rows["1000", "mtl, full"][8] == "> 1.0"


def test_seeds_are_compared_with_their_own_curve_from_scratch() -> None:
    # Pooled curves would mix a hard draw of labels with an easy one.
    curves = curves_of(_typed(_record(1, factor=3.0), _record(0, factor=1.0)))
    forces = curves["molecules"]["scratch"][10].errors["forces"]
    assert forces == pytest.approx([1 / np.sqrt(10), 3 / np.sqrt(10)])


@pytest.mark.parametrize(("width", "columns"), [(9.0, 3), (3.3, 2), (1.2, 1)])
def test_a_legend_has_the_columns_that_the_figure_is_wide_enough_for(
    width: float, columns: int
) -> None:
    # One family is a third as wide as three, and its starts have names as long.
    with house_style():
        figure = Figure(figsize=(width, 3.0))
        figure.subplots()
        names = ("scratch", "mtl, heads", "mtl, replay", "mtl, lora:2")
        legend_above(figure, [Line2D([], [], label=name) for name in names], columns=3)
        figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len({text.get_window_extent().x0 for text in legend.get_texts()}) == columns


def test_table_and_figure_are_written(tmp_path: Path) -> None:
    workspace = Workspace(raw=tmp_path, results=tmp_path)
    paths = [workspace.study_record("transfer", f"molecules-{seed}") for seed in (0, 1)]
    for seed, path in enumerate(paths):
        write_json(path, _record(seed, factor=1.0 + seed))
    write_study("transfer", paths, workspace=workspace, dpi=40)
    written = {path.suffix for path in workspace.studies.glob("transfer.*")}
    assert {".csv", ".md", ".tex", ".svg", ".png"} <= written
