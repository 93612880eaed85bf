"""Parity plots: predictions against labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from textwrap import fill
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtlpar.report.grid import format_number
from mtlpar.report.items import Quantity, Scope
from mtlpar.report.load import ErrorTable, FloatArray, read_errors, read_predictions
from mtlpar.report.names import model_titles, source_title
from mtlpar.report.style import FAINT, SEQUENTIAL, leave_empty

_MANY_POINTS: Final = 1500
_CELLS: Final = 64
# How far beyond the labels, in their range, predictions may stretch a panel.
_STRETCH: Final = 0.25
_MARGIN: Final = 0.04
_LETTERS: Final = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    label: FloatArray
    prediction: FloatArray
    mae: float
    limits: tuple[float, float]

    @property
    def counts(self) -> FloatArray | None:
        """Points per cell, where there are too many to draw each."""
        if self.label.size < _MANY_POINTS:
            return None
        edges = np.linspace(*self.limits, _CELLS + 1)
        return np.histogram2d(self.label, self.prediction, bins=(edges, edges))[0]

    @property
    def outside(self) -> int:
        low, high = self.limits
        return int(((self.prediction < low) | (self.prediction > high)).sum())


def draw_parity(scope: Scope, *, quantity: Quantity) -> Figure:
    """Draw predictions against labels: a row per chosen model, a column per source.

    Models that predict nothing of the kind and sources without such labels are left out. Panels of
    one source share their limits. The error printed is that of the whole test set; the points are
    the sample of it that evaluate keeps.

    Args:
        scope: What the report is about.
        quantity: The error to print; its target is what is drawn.

    Raises:
        ValueError: If a chosen model does not exist, or an input is missing or not usable.
    """
    models = scope.parity_models
    table = read_errors(quantity, workspace=scope.workspace, models=models, sources=scope.sources)
    panels = _panels(scope, table, models)
    models = tuple(model for model in models if any(panels[model])) or models
    kept = [any(panels[model][index] for model in models) for index in range(len(scope.sources))]
    kept = kept if any(kept) else [True] * len(kept)
    sources = list(compress(scope.sources, kept))
    norm = _count_norm([panel for row in panels.values() for panel in row if panel])
    columns = len(sources)
    figure = Figure(
        figsize=(1.85 * columns + 1.0, max(2.8, 1.62 * len(models) + 0.75)), layout="compressed"
    )
    grid = figure.subplots(len(models), columns, sharex="col", sharey="col", squeeze=False)
    titles = model_titles(scope.models, sources=scope.sources)
    for row, model in zip(grid, models, strict=True):
        shown = compress(panels[model], kept)
        for axes, panel, source in zip(row, shown, sources, strict=True):
            if panel is None:
                leave_empty(axes, "no label" if math.isnan(table.zero[source]) else "no branch")
            else:
                _draw_panel(axes, panel, norm)
        # A row is about as high as fourteen letters are long.
        row[0].set_ylabel(fill(titles[model], _LETTERS), fontweight="bold")
    for axes, source in zip(grid[0], sources, strict=True):
        axes.set_title(source_title(source))
    what = "energy" if quantity.target == "energy" else f"{quantity.target} component"
    figure.supxlabel(f"Labelled {what} ({quantity.unit})", fontsize=9)
    figure.supylabel(f"Predicted {what} ({quantity.unit})", fontsize=9)
    if norm is not None:
        colors = ScalarMappable(norm=norm, cmap=SEQUENTIAL)
        bar = figure.colorbar(colors, ax=grid, pad=0.01, fraction=0.02, aspect=40)
        bar.set_label(f"{quantity.target.capitalize()} values per cell")
    return figure


def _panels(
    scope: Scope, table: ErrorTable, models: Sequence[str]
) -> dict[str, list[_Panel | None]]:
    """Panels by model and source; None where a model was not tested on a source."""
    errors = table.errors
    values = {
        (model, source): read_predictions(
            table.quantity.target, workspace=scope.workspace, model=model, source=source
        )
        for model in models
        for source in scope.sources
        if not math.isnan(errors[model][source])
    }
    limits = {
        drawn: _limits([pair for (_, source), pair in values.items() if source == drawn])
        for _, drawn in values
    }
    return {
        model: [
            _Panel(
                label=values[model, source][0],
                prediction=values[model, source][1],
                mae=errors[model][source],
                limits=limits[source],
            )
            if (model, source) in values
            else None
            for source in scope.sources
        ]
        for model in models
    }


def _limits(pairs: Sequence[tuple[FloatArray, FloatArray]]) -> tuple[float, float]:
    """Range of labels and predictions; a wild prediction must not squeeze all others."""
    labels = np.concatenate([label for label, _ in pairs])
    predictions = np.concatenate([prediction for _, prediction in pairs])
    low, high = float(labels.min()), float(labels.max())
    extent = (high - low) or abs(high) or 1.0
    low = min(low, max(float(predictions.min()), low - _STRETCH * extent))
    high = max(high, min(float(predictions.max()), high + _STRETCH * extent))
    return low - _MARGIN * extent, high + _MARGIN * extent


def _count_norm(panels: Sequence[_Panel]) -> LogNorm | None:
    highest = [float(panel.counts.max()) for panel in panels if panel.counts is not None]
    return LogNorm(1, max(2.0, *highest)) if highest else None


def _draw_panel(axes: Axes, panel: _Panel, norm: LogNorm | None) -> None:
    low, high = panel.limits
    axes.axline((low, low), slope=1, color=FAINT, linewidth=0.7, zorder=0)
    counts = panel.counts
    if counts is None:
        axes.plot(
            panel.label,
            panel.prediction,
            "o",
            markersize=2.4,
            markeredgewidth=0,
            alpha=0.5,
            color="#0072B2",
        )
    else:
        axes.imshow(
            np.ma.masked_equal(counts.T, 0),
            origin="lower",
            extent=(low, high, low, high),
            norm=norm,
            cmap=SEQUENTIAL,
            interpolation="nearest",
        )
    axes.set(xlim=panel.limits, ylim=panel.limits, aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=2, steps=[1, 2, 3, 4, 5, 10], min_n_ticks=2))
    notes = [f"MAE {format_number(panel.mae)}"]
    if panel.outside:
        notes.append(f"{panel.outside:,} outside")
    paper = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.0}
    axes.text(
        0.05, 0.95, "\n".join(notes), transform=axes.transAxes, va="top", fontsize=8.5, bbox=paper
    )
