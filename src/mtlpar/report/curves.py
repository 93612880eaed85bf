"""Learning curves: validation errors against the epoch, for every source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mtlpar.report.items import ENERGY_MAE, FORCE_MAE, STRESS_MAE, Quantity, Scope
from mtlpar.report.load import Epoch, read_history
from mtlpar.report.names import is_single_source, model_titles, source_title
from mtlpar.report.style import INK, PALETTE, leave_empty, legend_above, plain_axes, plain_log_axis

_SINGLE: Final = "Single-source model"
_QUANTITIES: Final = (ENERGY_MAE, FORCE_MAE, STRESS_MAE)


def draw_learning_curves(scope: Scope) -> Figure:
    """Draw validation errors against epochs: a column per source, a line per model.

    The single-source models share one colour, for each panel has only one of them. A dot marks the
    epoch whose model was kept.

    Args:
        scope: What the report is about.

    Raises:
        ValueError: If the history of a model is missing or not usable.
    """
    histories = {
        model: read_history(scope.workspace.training_metrics(model), trained_on)
        for model, trained_on in scope.models.items()
    }
    labels = _labels(scope)
    colors = _colors(tuple(dict.fromkeys(labels.values())))
    columns = len(scope.sources)
    quantities = _measured(histories.values())
    figure = Figure(figsize=(max(1.95 * columns, 4.0) + 0.4, 0.8 + 1.8 * len(quantities)))
    grid = figure.subplots(len(quantities), columns, sharex="col", squeeze=False)
    for row, quantity in zip(grid, quantities, strict=True):
        for axes, source in zip(row, scope.sources, strict=True):
            for model, history in histories.items():
                if source in scope.models[model] and quantity.key in history[0].errors[source]:
                    _draw_line(axes, history, source, quantity.key, color=colors[labels[model]])
            if axes.lines:
                _finish_panel(axes)
            else:
                leave_empty(axes, "no label")
        row[0].set_ylabel(f"Validation {quantity.target} MAE\n({quantity.unit})")
    for axes, source in zip(grid[0], scope.sources, strict=True):
        axes.set_title(source_title(source))
    figure.supxlabel("Epoch", fontsize=9)
    handles = [Line2D([], [], color=color, label=label) for label, color in colors.items()]
    handles.append(
        Line2D([], [], color=INK, linestyle="", marker="o", markersize=4.5, label="Epoch kept")
    )
    legend_above(figure, handles, columns=5)
    return figure


def _measured(histories: Iterable[Sequence[Epoch]]) -> tuple[Quantity, ...]:
    """Errors that any model has on any source: stresses only where they are learned."""
    found = set[str]()
    for history in histories:
        found.update(*history[0].errors.values())
    return tuple(quantity for quantity in _QUANTITIES if quantity.key in found)


def _labels(scope: Scope) -> dict[str, str]:
    """What the legend calls each model."""
    titles = model_titles(scope.models, sources=scope.sources)
    return {
        model: _SINGLE if is_single_source(model, trained_on) else titles[model]
        for model, trained_on in scope.models.items()
    }


def _colors(labels: Sequence[str]) -> dict[str, str]:
    return {label: PALETTE[index % len(PALETTE)] for index, label in enumerate(labels)}


def _draw_line(axes: Axes, history: Sequence[Epoch], source: str, key: str, *, color: str) -> None:
    epochs = np.array([epoch.epoch for epoch in history])
    errors = np.array([epoch.errors[source][key] for epoch in history])
    axes.plot(epochs, errors, color=color)
    kept = [index for index, epoch in enumerate(history) if epoch.is_best][-1:]
    axes.plot(epochs[kept], errors[kept], "o", color=color, markersize=4.5, clip_on=False)


def _finish_panel(axes: Axes) -> None:
    plain_log_axis(axes)
    # One tick is enough: a run of one epoch has no other.
    whole = MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    axes.xaxis.set_major_locator(whole)
    plain_axes(axes)
