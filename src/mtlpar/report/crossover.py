"""Where which layout pays: predicted step times and memory over branches and ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtlpar.core.wording import counted
from mtlpar.plan.predict import PLANS, Plan
from mtlpar.plan.recommend import Crossover, Question, fastest
from mtlpar.report.layouts import LAYOUTS, Look
from mtlpar.report.style import (
    FAINT,
    INK,
    PALETTE,
    house_style,
    numbers_axis,
    plain_axes,
    save_figure,
)

_LOOKS: Final[dict[Plan, Look]] = {
    "mtl-base": LAYOUTS["mtl-base"],
    "mtl-par even": Look("MTL-par, equal groups", PALETTE[6]),
    "mtl-par": Look("MTL-par, groups by cost", LAYOUTS["mtl-par"].color),
    "mtl-par sharded": LAYOUTS["mtl-par-sharded"],
}
# Colours of the map saturate at this factor between the layouts.
_SATURATION: Final = 2.0


def write_crossover(path: Path, question: Question, result: Crossover, *, dpi: int) -> None:
    """Draw the comparison and write it as PNG and SVG beside each other."""
    with house_style():
        save_figure(draw_crossover(question, result), path.parent, path.stem, dpi=dpi)


def draw_crossover(question: Question, result: Crossover) -> Figure:
    """Step time over ranks, memory over branches, and a map of MTL-base over MTL-par.

    Args:
        question: What was asked.
        result: Predictions over branches and ranks; the question's branches are among them.
    """
    figure = Figure(figsize=(10.2, 3.7))
    times, memory, plane = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    _draw_times(times, question, result)
    _draw_memory(memory, question, result)
    _draw_map(plane, result)
    handles, labels = times.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(PLANS))
    structures = sum(d.structures for d in question.workload(1).branches.values())
    figure.supxlabel(
        f"Predicted, not measured: {question.machine.description}; {structures / 1e6:,.0f} M "
        f"structures, {question.batch_per_rank:g} per rank and step",
        fontsize=8,
        color=FAINT,
    )
    return figure


def _draw_times(axes: Axes, question: Question, result: Crossover) -> None:
    for plan in PLANS:
        seconds = [
            result.predictions[question.branches, ranks][plan].step.total for ranks in result.ranks
        ]
        axes.plot(
            result.ranks,
            [1e3 * value for value in seconds],
            color=_LOOKS[plan].color,
            label=_LOOKS[plan].title,
            marker=".",
        )
    numbers_axis(axes, result.ranks[::2])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Ranks")
    axes.set_ylabel("Step (ms), predicted")
    axes.set_title(f"{counted(question.branches, 'branch')}, batch grows with ranks")
    plain_axes(axes)


def _draw_memory(axes: Axes, question: Question, result: Crossover) -> None:
    ranks = result.ranks[-1]
    for plan in PLANS:
        sizes = [
            result.predictions[count, ranks][plan].memory.device / 2**30
            for count in result.branches
        ]
        axes.plot(result.branches, sizes, color=_LOOKS[plan].color, marker=".")
    limit = question.machine.device_memory_gib
    if limit < 4 * axes.get_ylim()[1]:
        axes.axhline(limit, color=INK, linewidth=0.8, linestyle="--")
        axes.annotate("memory of a device", (result.branches[0], limit), fontsize=7.5, va="bottom")
    numbers_axis(axes, result.branches)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Branches")
    axes.set_ylabel("Memory per rank (GiB), predicted")
    axes.set_title(counted(ranks, "rank"))
    plain_axes(axes)


def _draw_map(axes: Axes, result: Crossover) -> None:
    """Ratio of step times; blue where MTL-par is faster. The name is that of the best layout."""
    ratio = np.array(
        [[result.speedup(count, ranks) for ranks in result.ranks] for count in result.branches]
    )
    limit = np.log2(_SATURATION)
    axes.imshow(np.log2(ratio), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    for row, count in enumerate(result.branches):
        for column, ranks in enumerate(result.ranks):
            best = fastest([result.predictions[count, ranks][plan] for plan in PLANS])
            text = f"{ratio[row, column]:.2f}"
            weight = "bold" if best.plan != "mtl-base" else "normal"
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5, fontweight=weight)
    axes.set_xticks(range(len(result.ranks)), [str(ranks) for ranks in result.ranks], rotation=45)
    axes.set_yticks(range(len(result.branches)), [str(count) for count in result.branches])
    axes.set_xlabel("Ranks")
    axes.set_ylabel("Branches")
    axes.set_title("Step of MTL-base over MTL-par\n(bold: some MTL-par is fastest)")
