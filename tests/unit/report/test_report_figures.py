"""Figures are there, show something, and depend on nothing but their input."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from mtlpar.core.files import read_json
from mtlpar.core.ledger import Ledger
from mtlpar.report import stage
from mtlpar.report.heatmap import _readable_on, draw_heatmap
from mtlpar.report.items import (
    ENERGY_MAE,
    FORCE_MAE,
    figure_names,
    inputs_of,
    outputs_of,
    table_names,
)
from mtlpar.report.ledger_bars import draw_ledger
from mtlpar.report.parity import draw_parity
from mtlpar.report.style import house_style

MEGAPIXELS = {
    "heatmap": 0.15,
    "parity_stress": 0.1,
    "parity": 0.3,
    "learning_curves": 0.3,
    "calibration": 0.2,
    "ledger_figure": 0.1,
}
MEGAPIXELS["reference_energies"] = 0.5


@pytest.fixture(scope="module")
def drawn(fake_run_in, tmp_path_factory):
    """Draw a figure where there is nothing but what it declares, once; returns the run."""

    @cache
    def draw(name: str):
        run = fake_run_in(tmp_path_factory.mktemp(name))
        inputs = inputs_of(name, run.scope)
        for path in [path for path in run.workspace.results.rglob("*") if path.is_file()]:
            if path not in inputs:
                path.unlink()
        stage.run(name, scope=run.scope)
        return run

    return draw


@pytest.mark.parametrize("name", figure_names())
def test_a_figure_reads_what_it_declares_and_is_not_blank(drawn, name: str) -> None:
    run = drawn(name)
    png, svg = outputs_of(name, run.workspace)
    files = {path for path in run.workspace.results.rglob("*") if path.is_file()}
    assert files == {*inputs_of(name, run.scope), png, svg}

    pixels = imread(png)[..., :3]
    height, width = pixels.shape[:2]
    expected = next(size for kind, size in MEGAPIXELS.items() if name.startswith(kind))

    assert height * width > expected * 1e6
    assert 0.02 < float((pixels.min(axis=-1) < 0.9).mean()) < 0.95
    assert svg.read_text(encoding="utf-8").rstrip().endswith("</svg>")


@pytest.mark.parametrize("name", ["heatmap_energy", "parity_energy"])
def test_same_input_gives_the_same_bytes_whatever_the_users_style(
    drawn, fake_run, name: str
) -> None:
    first = [path.read_bytes() for path in outputs_of(name, drawn(name).workspace)]

    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.hashsalt": "other"}):
        stage.run(name, scope=fake_run.scope)

    assert [path.read_bytes() for path in outputs_of(name, fake_run.workspace)] == first


def test_drawing_leaves_the_users_matplotlib_alone(fake_run) -> None:
    before = dict(matplotlib.rcParams)

    stage.run("ledger_figure", scope=fake_run.scope)

    assert dict(matplotlib.rcParams) == before


def test_resolution_follows_the_settings(drawn, fake_run) -> None:
    scope = fake_run.scope
    finer = scope.settings.model_copy(update={"dpi": 200})
    stage.run("ledger_figure", scope=replace(scope, settings=finer))

    small, large = (
        imread(outputs_of("ledger_figure", run.workspace)[0]).shape
        for run in (drawn("ledger_figure"), fake_run)
    )
    assert large[:2] == (2 * small[0], 2 * small[1])


def test_the_legend_of_the_ledger_fits_whatever_was_dropped(fake_run) -> None:
    # The reasons of the embedded sample; with four side by side both ends were cut off.
    path = fake_run.workspace.ledger("qm7x")
    ledger = Ledger.read(path)
    reasons = {
        "repeated_endpoint": 70_000,
        "listed_duplicate": 60_000,
        "repeated_transition_state": 50_000,
    }
    for book in (ledger, *ledger.files.values()):
        book.dropped.update({**reasons, "missing_forces": 1, "disordered_site": 1})
        book.rows += sum(reasons.values()) + 2
    ledger.write(path)
    with house_style():
        figure = draw_ledger(fake_run.scope)
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= legend.x0
    assert legend.x1 <= figure.bbox.x1


def test_a_wild_prediction_is_counted_and_does_not_squeeze_the_others(fake_run) -> None:
    path = fake_run.workspace.predictions("mtl", "qm7x")
    with np.load(path) as content:
        arrays = dict(content)
    arrays["energy_prediction_ev_per_atom"][0] = 1e6
    np.savez(path, **arrays)
    labels = arrays["energy_label_ev_per_atom"]

    figure = draw_parity(fake_run.scope, quantity=ENERGY_MAE)

    panel = figure.axes[fake_run.scope.sources.index("qm7x") + 5]
    assert "1 outside" in panel.texts[0].get_text()
    assert np.ptp(panel.get_xlim()) < 2 * np.ptp(labels)


def test_parity_prints_the_error_of_the_whole_test_set(fake_run) -> None:
    fake_run.change_metrics("baseline", "ani1x", force_mae_ev_per_angstrom=0.98765)

    figure = draw_parity(fake_run.scope, quantity=FORCE_MAE)

    assert figure.axes[0].texts[0].get_text() == "MAE 0.988"


def test_a_source_that_a_model_was_not_tested_on_has_a_dash_and_an_empty_panel(fake_run) -> None:
    fake_run.change_metrics("mtl", "qm7x", branch=None)
    scope = fake_run.scope

    cells = [text.get_text() for text in draw_heatmap(scope, quantity=FORCE_MAE).axes[0].texts]
    panels = draw_parity(scope, quantity=FORCE_MAE).axes

    assert cells.count("–") == 1
    column = scope.sources.index("qm7x")
    assert "MAE" in panels[column].texts[0].get_text()
    assert [text.get_text() for text in panels[column + 5].texts] == ["no branch"]


def test_colours_of_the_heat_map_compare_with_predicting_zero(fake_run) -> None:
    # Alexandria's forces are small: on one scale of errors every model would look good there.
    axes = draw_heatmap(fake_run.scope, quantity=FORCE_MAE).axes[0]
    cells = [patch for patch in axes.patches if patch.get_facecolor()[3] and patch.get_fill()]
    numbers = [float(text.get_text()) for text in axes.texts]
    columns = len(fake_run.scope.sources)
    zero = numbers[-columns:]
    for index, (cell, number) in enumerate(zip(cells, numbers, strict=True)):
        red, _, blue, _ = cell.get_facecolor()
        if number < 0.9 * zero[index % columns]:
            assert blue > red
        if number > 1.1 * zero[index % columns]:
            assert red > blue


def test_numbers_are_readable_on_dark_and_on_bright_cells() -> None:
    colors = matplotlib.colormaps["viridis"]

    assert _readable_on(colors(0.0)) == "white"
    assert _readable_on(colors(1.0)) == "black"


@pytest.mark.parametrize("source", ["qm7x", "mptrj"])
def test_everything_can_be_made_even_for_one_model_of_one_source(fake_run, source) -> None:
    # QM7-X has no stress at all: its tables are full of dashes, and its panels empty.
    coarse = fake_run.scope.settings.model_copy(update={"dpi": 40})
    scope = replace(
        fake_run.scope, models={"baseline": (source,)}, sources=(source,), settings=coarse
    )

    for name in (*table_names(), *figure_names()):
        stage.run(name, scope=scope)
        assert all(path.exists() for path in outputs_of(name, fake_run.workspace))


def test_a_model_without_any_error_can_be_drawn(fake_run) -> None:
    for source in fake_run.scope.sources:
        fake_run.change_metrics("mtl", source, energy_mae_ev_per_atom=0.0)

    stage.run("heatmap_energy", scope=fake_run.scope)

    assert outputs_of("heatmap_energy", fake_run.workspace)[0].exists()


@pytest.mark.parametrize(("structures", "boxed"), [(100, False), (10_000, True)])
def test_the_best_model_is_boxed_only_if_it_beats_zero_by_more_than_noise(
    fake_run, structures: int, boxed: bool
) -> None:
    # All are 5 % below predicting zero, with a standard error of 10 % of it, or of 1 %.
    path = fake_run.workspace.metrics("mtl", "ani1x")
    zero = read_json(path)["zero_predictor"]["force_mae_ev_per_angstrom"]
    errors = {"force_mae_ev_per_angstrom": 0.95 * zero, "force_rmse_ev_per_angstrom": 1.38 * zero}
    for model in fake_run.scope.models:
        labels = {"energy": structures, "forces": structures, "stress": 0}
        fake_run.change_metrics(model, "ani1x", **errors, num_labels=labels)

    axes = draw_heatmap(fake_run.scope, quantity=FORCE_MAE).axes[0]

    boxes = [patch for patch in axes.patches if not patch.get_fill() and patch.get_x() < 0]
    assert len(boxes) == (len(fake_run.scope.models) if boxed else 0)
