"""The look of all figures, and how they reach the disk; nothing global is changed for good."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    Locator,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from mtlpar.core.files import atomic_path
from mtlpar.report.items import FIGURE_FORMATS

# Okabe and Ito's palette, safe for the colour-blind; yellow is left out, it fades on white.
INK: Final = "#333333"
FAINT: Final = "#8c8c8c"
PALETTE: Final = ("#7f7f7f", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SEQUENTIAL: Final = "viridis"
DIVERGING: Final = "RdBu_r"

# Axes that span less show too few of 1, 2 and 5; axes that span more show too many.
_LINEAR_DECADES: Final = 0.4
_MANY_DECADES: Final = 3.0

_STYLE: Final[dict[str, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.5,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "svg.hashsalt": "mtlpar",
    "svg.fonttype": "path",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Make and save figures alike whatever the user's own matplotlib settings are."""
    with matplotlib.style.context(_STYLE, after_reset=True):
        yield


def save_figure(figure: Figure, folder: Path, name: str, *, dpi: int) -> None:
    """Write a figure in all formats, each whole or not at all, without dates inside.

    Args:
        figure: The figure.
        folder: Where to write.
        name: Stem of the files.
        dpi: Resolution of what is not drawn with lines.
    """
    # The layout takes as long as drawing: one for all formats. A figure that has an engine for it,
    # also one called "none", is drawn twice, and one without gets what the settings say.
    with matplotlib.rc_context({"figure.constrained_layout.use": False}):
        if engine := figure.get_layout_engine():
            figure.set_dpi(dpi)
            engine.execute(figure)
            figure.set_layout_engine(None)
        for suffix in FIGURE_FORMATS:
            metadata = {"Date": None} if suffix == "svg" else {"Software": None}
            with atomic_path(folder / f"{name}.{suffix}") as temporary:
                figure.savefig(temporary, format=suffix, dpi=dpi, metadata=metadata)


def leave_empty(axes: Axes, why: str) -> None:
    """Write into a panel why nothing is drawn; numbers below belong to the panels above."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelleft=False)
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color=FAINT)


def legend_above(figure: Figure, handles: Sequence[Artist], *, columns: int) -> None:
    """Put a legend above all panels, in as many columns as the figure is wide enough for.

    Args:
        figure: The figure, as wide as it will be.
        handles: What to explain, with labels.
        columns: The most columns.
    """
    for count in range(min(columns, len(handles)), 0, -1):
        legend = figure.legend(handles=handles, loc="outside upper center", ncols=count)
        if count == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def plain_axes(axes: Axes) -> None:
    """Leave two spines, and faint lines behind the data to read values by."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def numbers_axis(axes: Axes, values: Sequence[int], *, base: int = 2) -> None:
    """Make the x axis logarithmic, with ticks at the numbers that were looked at."""
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())


def draw_repeats(
    axes: Axes,
    repeats: Mapping[int, Sequence[float]],
    middle: Callable[[Sequence[float]], float],
    **line: Any,
) -> ErrorbarContainer:
    """Draw a line through the middles of repeats, with bars from the smallest to the largest.

    Args:
        axes: Where to draw.
        repeats: Values by place on the x axis.
        middle: What the line goes through, such as the mean.
        line: Looks of the line.
    """
    middles = [middle(values) for values in repeats.values()]
    spread = [
        [at - min(values) for at, values in zip(middles, repeats.values(), strict=True)],
        [max(values) - at for at, values in zip(middles, repeats.values(), strict=True)],
    ]
    return axes.errorbar([*repeats], middles, yerr=spread, capsize=2, **line)


def plain_log_axis(axes: Axes) -> None:
    """Make the y axis logarithmic, with few and plain numbers; call it when all is drawn."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    locator: Locator
    if decades < _LINEAR_DECADES:
        locator = MaxNLocator(nbins=4)
    elif decades < _MANY_DECADES:
        locator = LogLocator(base=10, subs=(1.0, 2.0, 5.0))
    else:
        locator = LogLocator(base=10, numticks=8)
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
