"""Table and figure of the memory study: what a rank holds, beside the formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtlpar.core.measurements import MemoryRecord
from mtlpar.report.grid import Grid, format_number, text_row
from mtlpar.report.layouts import LAYOUTS
from mtlpar.report.style import INK, numbers_axis, plain_axes

_MEGA: Final = 1e6
_HEADER: Final = ("Branches", "Layout", "Ranks", "Formula (MB)", "Held (MB)", "Peak (MB)")
# What is drawn: key of the record, name in the legend, and looks.
_DRAWN: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("formula_bytes", "formula", {"linestyle": "--", "linewidth": 1.0}),
    ("held_bytes", "held tensors", {"linestyle": "", "marker": "_", "markersize": 9}),
    ("peak_bytes", "peak, measured", {"linestyle": "", "marker": "o", "markersize": 5}),
)


def memory_grid(records: Sequence[MemoryRecord]) -> Grid:
    """Memory of the fullest rank, measured, beside the formula."""
    device = records[0].device
    peak = "device memory" if device != "cpu" else "memory of the process above an empty model's"
    return Grid(
        label="memory",
        title="Memory per rank",
        caption="Formula: four float32 numbers per parameter (weight, gradient, two moments), with "
        "Ps + Nh Ph parameters for MTL-base, Ps + Ph for MTL-par and Ps / ranks + Ph where the "
        "encoder is sharded. Held: the same tensors, "
        f"counted in the running model. Peak: {peak}, measured, with activations and gradients "
        "under way. All of the fullest rank.",
        columns="rlrrrr",
        header=_HEADER,
        rows=tuple(
            text_row(
                str(record.branches),
                LAYOUTS[record.layout].title,
                str(record.ranks),
                *(
                    format_number(size / _MEGA)
                    for size in (record.formula_bytes, record.held_bytes, record.peak_bytes)
                ),
            )
            for record in sorted(records, key=lambda one: (one.branches, one.layout))
        ),
    )


def draw_memory(records: Sequence[MemoryRecord]) -> Figure:
    """Memory against branches: measured as markers, formula as lines."""
    figure = Figure(figsize=(4.6, 3.3))
    axes = figure.subplots()
    looks = {name: look for name, look in LAYOUTS.items() if any(r.layout == name for r in records)}
    for layout, look in looks.items():
        chosen = sorted((r for r in records if r.layout == layout), key=lambda one: one.branches)
        branches = [record.branches for record in chosen]
        for key, _, line in _DRAWN:
            sizes = [getattr(record, key) / _MEGA for record in chosen]
            axes.plot(branches, sizes, color=look.color, **line)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Memory of the fullest rank (MB)")
    axes.set_xlabel("Branches")
    numbers_axis(axes, sorted({record.branches for record in records}))
    plain_axes(axes)
    handles = [Line2D([], [], color=look.color, label=look.title) for look in looks.values()]
    handles += [Line2D([], [], color=INK, label=label, **line) for _, label, line in _DRAWN]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure
