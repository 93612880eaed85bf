"""Tables and figures of the studies; here those of memory per rank and of scaling."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from mtlpar.core.files import write_text
from mtlpar.core.paths import Workspace
from mtlpar.core.products import (
    CommRecord,
    CompatibilityRecord,
    MemoryRecord,
    ScalingRecord,
    StudyRecord,
    TransferRecord,
)
from mtlpar.core.records import read_record
from mtlpar.report.comm import comm_grid, draw_comm
from mtlpar.report.compatibility import compatibility_grid, draw_compatibility
from mtlpar.report.grid import Cell, Grid, format_number, to_latex, to_markdown
from mtlpar.report.style import FAINT, INK, PALETTE, house_style, save_figure
from mtlpar.report.transfer import draw_transfer, transfer_grid
from mtlpar.study.verdict import Steps, judge

_TITLES: Final = {
    "mtl-base": "MTL-base",
    "mtl-par": "MTL-par",
    "mtl-par-sharded": "MTL-par, encoder sharded",
}
_COLORS: Final = {
    "mtl-base": PALETTE[2],
    "mtl-par": PALETTE[1],
    "mtl-par-sharded": PALETTE[3],
}
_MARKERS: Final = ("o", "s", "^", "D")
_MEGA: Final = 1e6
_MEMORY_HEADER: Final = (
    "Branches", "Layout", "Ranks", "Formula (MB)", "Held (MB)", "Peak (MB)",
)  # fmt: skip
_SCALING_HEADER: Final = (
    "Scaling", "Batch", "Layout", "Ranks", "Epoch (s)", "Fastest (s)", "Slowest (s)", "Efficiency",
)  # fmt: skip


def write_study(name: str, records: Iterable[Path], *, workspace: Workspace, dpi: int) -> str:
    """Write table and figure of a study from its measurements.

    Args:
        name: ``memory``, ``scaling``, ``comm``, ``transfer`` or ``compatibility``.
        records: Files with the measurements.
        workspace: Paths of all products.
        dpi: Resolution of the figure.

    Returns:
        The caption of the table, which says what was found.

    Raises:
        ValueError: If a measurement is missing or there is no such study.
    """
    if name not in _STUDIES:
        raise ValueError(f"no study is called {name!r}; there are {', '.join(_STUDIES)}")
    kind, grid_of, draw = _STUDIES[name]
    measured = [read_record(path, kind, stage=f"study {name}").given() for path in records]
    grid = grid_of(measured)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(grid.header)
    writer.writerows([cell.text for cell in row] for row in grid.rows)
    folder = workspace.studies
    write_text(folder / f"{name}.csv", stream.getvalue())
    write_text(folder / f"{name}.md", to_markdown(grid))
    write_text(folder / f"{name}.tex", to_latex(grid))
    with house_style():
        save_figure(draw(measured), folder, name, dpi=dpi)
    return grid.caption


def memory_grid(records: Sequence[Mapping[str, Any]]) -> Grid:
    """Memory of the fullest rank, measured, beside the formula."""
    device = records[0]["device"]
    peak = "device memory" if device != "cpu" else "memory of the process above an empty model's"
    rows = tuple(
        tuple(
            Cell(text)
            for text in (
                str(record["branches"]),
                _TITLES[record["layout"]],
                str(record["ranks"]),
                format_number(record["formula_bytes"] / _MEGA),
                format_number(_held_bytes(record) / _MEGA),
                format_number(record["peak_bytes"] / _MEGA),
            )
        )
        for record in sorted(records, key=lambda r: (r["branches"], r["layout"]))
    )
    return Grid(
        label="memory",
        title="Memory per rank",
        caption="Formula: four float32 numbers per parameter (weight, gradient, two moments), with "
        "Ps + Nh Ph parameters for MTL-base, Ps + Ph for MTL-par and Ps / ranks + Ph where the "
        "encoder is sharded. Held: the same tensors, "
        f"counted in the running model. Peak: {peak}, measured, with activations and gradients "
        "under way. All of the fullest rank.",
        columns="rlrrrr",
        header=_MEMORY_HEADER,
        rows=rows,
    )


def draw_memory(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Memory against branches: measured as markers, formula as lines."""
    figure = Figure(figsize=(4.6, 3.3))
    axes = figure.subplots()
    layouts = [name for name in _TITLES if any(r["layout"] == name for r in records)]
    for layout in layouts:
        chosen = sorted(
            (r for r in records if r["layout"] == layout), key=lambda r: int(r["branches"])
        )
        branches = [r["branches"] for r in chosen]
        color = _COLORS[layout]
        axes.plot(
            branches,
            [r["formula_bytes"] / _MEGA for r in chosen],
            color=color,
            linestyle="--",
            linewidth=1.0,
        )
        for values, marker in (
            ([_held_bytes(r) for r in chosen], "_"),
            ([r["peak_bytes"] for r in chosen], "o"),
        ):
            axes.plot(
                branches,
                [value / _MEGA for value in values],
                color=color,
                linestyle="",
                marker=marker,
                markersize=9 if marker == "_" else 5,
            )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Memory of the fullest rank (MB)")
    axes.set_xlabel("Branches")
    _rank_axis(axes, sorted({int(r["branches"]) for r in records}))
    figure.legend(handles=_memory_legend(layouts), loc="outside upper center", ncols=2)
    return figure


def _memory_legend(layouts: Sequence[str]) -> list[Line2D]:
    return [
        *(Line2D([], [], color=_COLORS[name], label=_TITLES[name]) for name in layouts),
        Line2D([], [], color=INK, linestyle="--", linewidth=1.0, label="formula"),
        Line2D([], [], color=INK, linestyle="", marker="_", markersize=9, label="held tensors"),
        Line2D([], [], color=INK, linestyle="", marker="o", markersize=5, label="peak, measured"),
    ]


@dataclass(frozen=True, slots=True)
class _ScalingPoint:
    """Epoch times of one layout, batch size and number of ranks."""

    scaling: str
    batch: int
    layout: str
    ranks: int
    seconds: tuple[float, ...]
    oversubscribed: bool

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def scaling_grid(records: Sequence[Mapping[str, Any]]) -> Grid:
    """Epoch times, with spread and efficiency."""
    epochs = _epochs(records)
    first = {
        (e.scaling, e.batch, e.layout): e for e in sorted(epochs, key=lambda e: -e.ranks)
    }  # the fewest ranks come last and stay
    rows = []
    for epoch in epochs:
        base = first[epoch.scaling, epoch.batch, epoch.layout]
        ideal = base.median * (base.ranks / epoch.ranks if epoch.scaling == "strong" else 1)
        texts = (
            epoch.scaling,
            str(epoch.batch),
            _TITLES[epoch.layout],
            f"{epoch.ranks}{' (shared)' if epoch.oversubscribed else ''}",
            format_number(epoch.median),
            format_number(min(epoch.seconds)),
            format_number(max(epoch.seconds)),
            f"{ideal / epoch.median:.2f}",
        )
        rows.append(tuple(Cell(text) for text in texts))
    steps, branches = records[0]["steps"], records[0]["branches"]
    return Grid(
        label="scaling",
        title="Strong and weak scaling",
        caption=f"Measured time of an epoch of {steps} steps with {branches} branches: median, "
        "fastest and slowest repeat. Batch: of all ranks in strong scaling, of each rank in weak "
        "scaling. Efficiency: ideal time over measured time. Ranks marked as shared are more than "
        "the machine has cores; they take turns and show no scaling. "
        + " ".join(f"{line}." for line in verdict_lines(records)),
        columns="lrlrrrrr",
        header=_SCALING_HEADER,
        rows=tuple(rows),
    )


def verdict_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What costs a step on the most ranks that were measured, layout by layout."""
    record = max(records, key=lambda record: int(record["ranks"]))
    return [
        f"{_TITLES[trace['layout']]} on {record['ranks']} ranks: {line}"
        for trace in record["traces"]
        for line in judge(Steps.of(trace)).lines()
    ]


def draw_scaling(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Epoch time against ranks; hollow markers are ranks that share cores."""
    epochs = _epochs(records)
    batches = sorted({epoch.batch for epoch in epochs})
    figure = Figure(figsize=(7.0, 3.2))
    for axes, scaling in zip(figure.subplots(1, 2), ("strong", "weak"), strict=True):
        for layout in _TITLES:
            for batch, marker in zip(batches, _MARKERS, strict=False):
                line = [
                    e for e in epochs if (e.scaling, e.layout, e.batch) == (scaling, layout, batch)
                ]
                if line:
                    _draw_line(axes, line, marker)
        axes.set_title(f"{scaling.capitalize()} scaling")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("Ranks")
        axes.set_ylabel("Epoch (s), measured")
        _rank_axis(axes, sorted({epoch.ranks for epoch in epochs}))
    layouts = [name for name in _TITLES if any(epoch.layout == name for epoch in epochs)]
    figure.legend(handles=_scaling_legend(batches, layouts), loc="outside upper center", ncols=4)
    return figure


def _draw_line(axes: Axes, line: Sequence[_ScalingPoint], marker: str) -> None:
    ranks = [epoch.ranks for epoch in line]
    medians = [epoch.median for epoch in line]
    ideal = [
        medians[0] * (ranks[0] / count if line[0].scaling == "strong" else 1) for count in ranks
    ]
    color = _COLORS[line[0].layout]
    axes.plot(ranks, ideal, color=FAINT, linestyle=":", linewidth=0.8)
    spread = [
        [median - min(epoch.seconds) for median, epoch in zip(medians, line, strict=True)],
        [max(epoch.seconds) - median for median, epoch in zip(medians, line, strict=True)],
    ]
    bars: ErrorbarContainer = axes.errorbar(
        ranks, medians, yerr=spread, color=color, linewidth=1.2, capsize=2
    )
    bars.lines[0].set_zorder(2)
    for epoch in line:
        axes.plot(
            epoch.ranks,
            epoch.median,
            marker=marker,
            color=color,
            markerfacecolor="white" if epoch.oversubscribed else color,
            markersize=5,
            zorder=3,
        )


def _scaling_legend(batches: Sequence[int], layouts: Sequence[str]) -> list[Line2D]:
    lines = [Line2D([], [], color=_COLORS[name], label=_TITLES[name]) for name in layouts]
    lines += [
        Line2D([], [], color=INK, linestyle="", marker=marker, label=f"batch {batch}")
        for batch, marker in zip(batches, _MARKERS, strict=False)
    ]
    lines.append(Line2D([], [], color=FAINT, linestyle=":", label="ideal"))
    lines.append(
        Line2D(
            [], [], color=INK, linestyle="", marker="o", markerfacecolor="white",
            label="ranks share cores",
        )
    )  # fmt: skip
    return lines


def _epochs(records: Sequence[Mapping[str, Any]]) -> list[_ScalingPoint]:
    epochs = [
        _ScalingPoint(
            epoch["scaling"],
            epoch["batch"],
            epoch["layout"],
            record["ranks"],
            tuple(epoch["seconds"]),
            record["oversubscribed"],
        )
        for record in records
        for epoch in record["epochs"]
    ]
    return sorted(epochs, key=lambda e: (e.scaling, e.batch, e.layout, e.ranks))


def _held_bytes(record: Mapping[str, Any]) -> float:
    return float(sum(record[f"{part}_bytes"] for part in ("parameters", "gradients", "moments")))


def _rank_axis(axes: Axes, values: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


_STUDIES: Final[
    dict[
        str,
        tuple[
            type[StudyRecord],
            Callable[[Sequence[Mapping[str, Any]]], Grid],
            Callable[[Sequence[Mapping[str, Any]]], Figure],
        ],
    ]
] = {
    "memory": (MemoryRecord, memory_grid, draw_memory),
    "scaling": (ScalingRecord, scaling_grid, draw_scaling),
    "comm": (CommRecord, comm_grid, draw_comm),
    "transfer": (TransferRecord, transfer_grid, draw_transfer),
    "compatibility": (CompatibilityRecord, compatibility_grid, draw_compatibility),
}
