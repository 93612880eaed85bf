"""Table and figure of the scaling study, with the verdict on what costs a step."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtlpar.core.measurements import EpochTimes, ScalingRecord
from mtlpar.core.wording import counted
from mtlpar.report.grid import Grid, format_number, text_row
from mtlpar.report.layouts import LAYOUTS, rank_title
from mtlpar.report.style import FAINT, INK, draw_repeats, numbers_axis, plain_axes
from mtlpar.study.verdict import Steps, judge

_MARKERS: Final = ("o", "s", "^", "D")
_HEADER: Final = (
    "Scaling", "Batch", "Layout", "Ranks", "Epoch (s)", "Fastest (s)", "Slowest (s)", "Efficiency",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Point:
    """Epoch times on some ranks."""

    ranks: int
    oversubscribed: bool
    epoch: EpochTimes

    @property
    def median(self) -> float:
        return statistics.median(self.epoch.seconds)

    def ideal(self, first: _Point) -> float:
        """What the epoch would take if the time of the fewest ranks scaled without loss."""
        return first.median * (first.ranks / self.ranks if self.epoch.scaling == "strong" else 1)


def scaling_grid(records: Sequence[ScalingRecord]) -> Grid:
    """Epoch times, with spread and efficiency."""
    steps, branches = records[0].steps, records[0].branches
    return Grid(
        label="scaling",
        title="Strong and weak scaling",
        caption=f"Measured time of an epoch of {counted(steps, 'step')} with "
        f"{counted(branches, 'branch')}: median, fastest and slowest repeat. Batch: of all ranks "
        "in strong scaling, of each rank in weak scaling. Efficiency: ideal time over measured "
        "time. Ranks marked as shared are more than the machine has cores; they take turns and "
        "show no scaling. " + " ".join(f"{line}." for line in verdict_lines(records)),
        columns="lrlrrrrr",
        header=_HEADER,
        rows=tuple(
            text_row(
                point.epoch.scaling,
                str(point.epoch.batch),
                LAYOUTS[point.epoch.layout].title,
                rank_title(point.ranks, oversubscribed=point.oversubscribed),
                format_number(point.median),
                format_number(min(point.epoch.seconds)),
                format_number(max(point.epoch.seconds)),
                f"{point.ideal(line[0]) / point.median:.2f}",
            )
            for line in _lines(records)
            for point in line
        ),
    )


def verdict_lines(records: Sequence[ScalingRecord]) -> list[str]:
    """What costs a step on the most ranks that were measured, layout by layout."""
    record = max(records, key=lambda one: one.ranks)
    return [
        f"{LAYOUTS[trace.layout].title} on {counted(record.ranks, 'rank')}: {line}"
        for trace in record.traces
        for line in judge(Steps.of(trace)).lines()
    ]


def draw_scaling(records: Sequence[ScalingRecord]) -> Figure:
    """Epoch time against ranks; hollow markers are ranks that share cores."""
    lines = _lines(records)
    batches = sorted({line[0].epoch.batch for line in lines})
    markers = dict(zip(batches, _MARKERS, strict=False))
    figure = Figure(figsize=(7.0, 3.2))
    for axes, scaling in zip(figure.subplots(1, 2), ("strong", "weak"), strict=True):
        for line in lines:
            if line[0].epoch.scaling == scaling and line[0].epoch.batch in markers:
                _draw_line(axes, line, markers[line[0].epoch.batch])
        axes.set_title(f"{scaling.capitalize()} scaling")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("Ranks")
        axes.set_ylabel("Epoch (s), measured")
        numbers_axis(axes, sorted({record.ranks for record in records}))
        plain_axes(axes)
    layouts = {line[0].epoch.layout for line in lines}
    handles = [
        Line2D([], [], color=look.color, label=look.title)
        for name, look in LAYOUTS.items()
        if name in layouts
    ]
    handles += [
        Line2D([], [], color=INK, linestyle="", marker=marker, label=f"batch {batch}")
        for batch, marker in markers.items()
    ]
    handles += [
        Line2D([], [], color=FAINT, linestyle=":", label="ideal"),
        Line2D(
            [], [], color=INK, linestyle="", marker="o", markerfacecolor="white",
            label="ranks share cores",
        ),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


def _draw_line(axes: Axes, line: Sequence[_Point], marker: str) -> None:
    color = LAYOUTS[line[0].epoch.layout].color
    ranks = [point.ranks for point in line]
    axes.plot(
        ranks, [one.ideal(line[0]) for one in line], color=FAINT, linestyle=":", linewidth=0.8
    )
    repeats = {point.ranks: point.epoch.seconds for point in line}
    bars = draw_repeats(axes, repeats, statistics.median, color=color, linewidth=1.2)
    bars.lines[0].set_zorder(2)
    for point in line:
        axes.plot(
            point.ranks,
            point.median,
            marker=marker,
            color=color,
            markerfacecolor="white" if point.oversubscribed else color,
            markersize=5,
            zorder=3,
        )


def _lines(records: Sequence[ScalingRecord]) -> list[list[_Point]]:
    """Points of each scaling, batch and layout, the fewest ranks first."""
    lines: dict[tuple[str, int, str], list[_Point]] = {}
    for record in sorted(records, key=lambda one: one.ranks):
        for epoch in record.epochs:
            line = lines.setdefault((epoch.scaling, epoch.batch, epoch.layout), [])
            line.append(_Point(record.ranks, record.oversubscribed, epoch))
    return [lines[key] for key in sorted(lines)]
