"""Heatmaps: errors of all models on all test sets at a glance."""

from __future__ import annotations

import math
from typing import Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mtlpar.report.grid import format_number
from mtlpar.report.items import Quantity, Scope
from mtlpar.report.load import ErrorTable, FloatArray, read_errors
from mtlpar.report.names import ZERO_NAME, ZERO_TITLE, model_titles, source_title
from mtlpar.report.style import DIVERGING, FAINT, plain_log_axis
from mtlpar.report.tables import best_errors

# Beyond this factor colours tell no difference.
_MOST: Final = 30.0

# A test set is a sample: what is closer to predicting zero than this many standard errors of the
# mean may be chance.
_NOISE: Final = 2.0
_LEGEND: Final = "boxed: best of its column, and better than predicting zero by more than noise"


def draw_heatmap(scope: Scope, *, quantity: Quantity) -> Figure:
    """Draw an error of models (rows) on test sets (columns), the best of each column boxed.

    The best is not boxed where noise may explain that it beats predicting zero. Colours compare
    errors with that of predicting zero on the same test set: sources differ by orders of magnitude
    in how large their labels are, which is no merit of a model.

    Args:
        scope: What the report is about.
        quantity: Which error.

    Raises:
        ValueError: If a metrics file is missing or not usable.
    """
    table = read_errors(
        quantity, workspace=scope.workspace, models=tuple(scope.models), sources=scope.sources
    )
    sources = tuple(scope.sources)
    rows = [*table.errors.values(), table.zero]
    values = np.array([[row[source] for source in sources] for row in rows])
    ratios = _ratios(values)
    norm = _norm_around_one(ratios)
    # Predicting zero is no model: a gap sets its row off.
    heights = [*range(len(rows) - 1), len(rows) - 0.75]
    figure = Figure(figsize=(2.6 + 0.85 * len(sources), max(2.4, 0.7 + 0.36 * len(rows))))
    axes = figure.add_subplot()
    best = best_errors(table)
    names = [*table.errors, ZERO_NAME]
    for y, name, row, row_ratios in zip(heights, names, rows, ratios, strict=True):
        for x, source in enumerate(sources):
            if math.isnan(row[source]):
                axes.text(x, y, format_number(row[source]), ha="center", va="center", color=FAINT)
                continue
            color = matplotlib.colormaps[DIVERGING](float(norm(row_ratios[x])))
            is_best = row is not table.zero and row[source] == best[source]
            is_boxed = is_best and beats_zero(table, name, source)
            draw_cell(axes, x, y, text=format_number(row[source]), color=color, is_boxed=is_boxed)
    titles = model_titles(scope.models, sources=sources)
    axes.set(xlim=(-0.5, len(sources) - 0.5), ylim=(heights[-1] + 0.5, -0.5))
    axes.set_xticks(range(len(sources)), [source_title(source) for source in sources])
    axes.set_yticks(heights, [*(titles[model] for model in table.errors), ZERO_TITLE])
    axes.tick_params(length=0, labelsize=9, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        ScalarMappable(norm=norm, cmap=DIVERGING), ax=axes, pad=0.02, fraction=0.05, aspect=25
    )
    error = f"{quantity.target} {quantity.title.split()[-1]}"
    bar.set_label(f"Test {error} / that of predicting zero")
    plain_log_axis(bar.ax)
    axes.set_title(f"Test {error} ({quantity.unit}) on", fontsize=9, pad=8)
    figure.supxlabel(_LEGEND, fontsize=8, color=FAINT)
    return figure


def beats_zero(table: ErrorTable, model: str, source: str) -> bool:
    """Whether a model is better than predicting zero by more than noise."""
    gain = table.zero[source] - table.errors[model][source]
    return gain > _NOISE * table.noise[model][source]


def _ratios(values: FloatArray) -> FloatArray:
    """Errors over those of the last row; where that has none, any error is as bad as can be."""
    zero = np.broadcast_to(values[-1], values.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: FloatArray = np.where(values == zero, 1.0, values / zero)
    return np.where(np.isnan(values), np.nan, np.clip(ratios, 1 / _MOST, _MOST))


def _norm_around_one(ratios: FloatArray) -> LogNorm:
    """Colour scale with as much room below as above."""
    found = ratios[np.isfinite(ratios)]
    # All values alike would leave the scale without extent.
    most = max(1.1, *(1.1 * np.maximum(found, 1 / found)), 0.0)
    return LogNorm(1 / most, most, clip=True)


def draw_cell(
    axes: Axes,
    x: float,
    y: float,
    *,
    text: str,
    color: tuple[float, float, float, float],
    is_boxed: bool,
) -> None:
    """Draw a cell of a heat map with a text that is readable on its colour."""
    axes.add_patch(Rectangle((x - 0.49, y - 0.475), 0.98, 0.95, facecolor=color, linewidth=0))
    ink = _readable_on(color)
    weight = "bold" if is_boxed else "normal"
    axes.text(x, y, text, ha="center", va="center", color=ink, fontweight=weight)
    if is_boxed:
        frame = Rectangle((x - 0.45, y - 0.39), 0.9, 0.78, fill=False, edgecolor=ink, linewidth=1.3)
        axes.add_patch(frame)


def _readable_on(color: tuple[float, float, float, float]) -> str:
    """Black or white, whichever has the higher contrast as WCAG 2 defines it."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3]
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"
