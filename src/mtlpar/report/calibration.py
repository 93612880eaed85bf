"""Figure of how many errors are within the intervals that uncertainties state."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from mtlpar.report.items import Scope
from mtlpar.report.names import model_titles, source_title
from mtlpar.report.style import FAINT, PALETTE, leave_empty, legend_above
from mtlpar.report.uncertainty import read_uncertainties


def draw_calibration(scope: Scope) -> Figure:
    """Draw shares of errors within intervals against those intended: a panel for each source.

    Args:
        scope: What the report is about.

    Raises:
        ValueError: If an input is missing or not usable.
    """
    models = scope.parity_models
    titles = model_titles(scope.models, sources=scope.sources)
    colors = {model: PALETTE[1 + place % (len(PALETTE) - 1)] for place, model in enumerate(models)}
    columns = len(scope.sources)
    figure = Figure(figsize=(max(1.95 * columns, 4.0) + 0.4, 2.8))
    panels = dict(
        zip(scope.sources, figure.subplots(1, columns, sharey=True, squeeze=False)[0], strict=True)
    )
    for model, source, _, quality in read_uncertainties(scope, models):
        panels[source].plot(
            (0, *quality.levels, 1), (0, *quality.observed, 1), color=colors[model], linewidth=1.2
        )
    for source, axes in panels.items():
        axes.set_title(source_title(source))
        _finish_panel(axes)
    panels[scope.sources[0]].set_ylabel("Share of test errors within")
    figure.supxlabel("Share that the interval is to hold", fontsize=9)
    handles = [Line2D([], [], color=color, label=titles[m]) for m, color in colors.items()]
    handles.append(Line2D([], [], color=FAINT, linestyle=":", label="calibrated"))
    legend_above(figure, handles, columns=4)
    return figure


def _finish_panel(axes: Axes) -> None:
    if not axes.lines:
        leave_empty(axes, "not known")
        return
    axes.plot((0, 1), (0, 1), color=FAINT, linestyle=":", linewidth=0.9, zorder=0)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([0, 0.5, 1]))
    axes.spines[["top", "right"]].set_visible(False)
