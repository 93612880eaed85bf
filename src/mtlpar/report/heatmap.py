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
from mtlpar.report.load import FloatArray, read_errors
from mtlpar.report.names import ZERO_TITLE, model_titles, source_title
from mtlpar.report.style import FAINT, SEQUENTIAL, plain_log_axis
from mtlpar.report.tables import best_errors

_TINY: Final = 1e-12


def draw_heatmap(scope: Scope, *, quantity: Quantity) -> Figure:
    """Draw an error of models (rows) on test sets (columns), the best of each column framed.

    Args:
        scope: What the report is about.
        quantity: Which error, on a logarithmic colour scale.

    Raises:
        ValueError: If a metrics file is missing or not usable.
    """
    table = read_errors(
        quantity, workspace=scope.workspace, models=tuple(scope.models), sources=scope.sources
    )
    sources = tuple(scope.sources)
    rows = [*table.errors.values(), table.zero]
    values = np.array([[row[source] for source in sources] for row in rows])
    norm = _log_norm(values)
    # Predicting zero is no model: a gap sets its row off.
    heights = [*range(len(rows) - 1), len(rows) - 0.75]
    figure = Figure(figsize=(2.6 + 0.85 * len(sources), max(2.4, 0.7 + 0.36 * len(rows))))
    axes = figure.add_subplot()
    best = best_errors(table)
    for y, row in zip(heights, rows, strict=True):
        for x, source in enumerate(sources):
            is_best = row is not table.zero and row[source] == best[source]
            _draw_cell(axes, x, y, value=row[source], norm=norm, is_best=is_best)
    titles = model_titles(scope.models, sources=sources)
    axes.set(xlim=(-0.5, len(sources) - 0.5), ylim=(heights[-1] + 0.5, -0.5))
    axes.set_xticks(range(len(sources)), [source_title(source) for source in sources])
    axes.set_yticks(heights, [*(titles[model] for model in table.errors), ZERO_TITLE])
    axes.tick_params(length=0, labelsize=9, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        ScalarMappable(norm=norm, cmap=SEQUENTIAL), ax=axes, pad=0.02, fraction=0.05, aspect=25
    )
    bar.set_label(f"Test {quantity.target} {quantity.title.split()[-1]} ({quantity.unit})")
    plain_log_axis(bar.ax)
    return figure


def _log_norm(values: FloatArray) -> LogNorm:
    """Colour scale over all values; an exact zero gets the colour of the smallest."""
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (_TINY, _TINY)
    # All values alike would leave the scale without extent.
    return LogNorm(low / 1.1, high * 1.1, clip=True)


def _draw_cell(
    axes: Axes, x: float, y: float, *, value: float, norm: LogNorm, is_best: bool
) -> None:
    if math.isnan(value):
        axes.text(x, y, format_number(value), ha="center", va="center", color=FAINT)
        return
    color = matplotlib.colormaps[SEQUENTIAL](float(norm(max(value, norm.vmin or _TINY))))
    axes.add_patch(Rectangle((x - 0.49, y - 0.475), 0.98, 0.95, facecolor=color, linewidth=0))
    ink = _readable_on(color)
    weight = "bold" if is_best else "normal"
    text = format_number(value)
    axes.text(x, y, text, ha="center", va="center", color=ink, fontweight=weight)
    if is_best:
        frame = Rectangle((x - 0.45, y - 0.39), 0.9, 0.78, fill=False, edgecolor=ink, linewidth=1.3)
        axes.add_patch(frame)


def _readable_on(color: tuple[float, float, float, float]) -> str:
    """Black or white, whichever has the higher contrast as WCAG 2 defines it."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3]
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"
