"""Table and figure of where the time of a step goes on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mtlpar.core.measurements import CommRecord, StepTimes
from mtlpar.core.wording import counted
from mtlpar.report.grid import Grid, format_number, text_row
from mtlpar.report.layouts import LAYOUTS, rank_title
from mtlpar.report.style import FAINT, INK, PALETTE, plain_axes

# What adds up to a step, in the order in which it is stacked.
_PARTS: Final = {
    "data": ("Data", PALETTE[5]),
    "compute": ("Compute", PALETTE[1]),
    "encoder_exposed": ("Encoder sum, exposed", PALETTE[2]),
    "branch_exposed": ("Branch sum, exposed", PALETTE[4]),
    "waiting": ("Waiting for slower ranks", "#d0d0d0"),
    "update": ("Update", PALETTE[3]),
}
_HIDDEN: Final = {
    "encoder_hidden": ("Encoder sum, hidden", PALETTE[2]),
    "branch_hidden": ("Branch sum, hidden", PALETTE[4]),
}
_MILLI: Final = 1e3


def comm_grid(records: Sequence[CommRecord]) -> Grid:
    """Milliseconds of every part of the mean step, a row per layout and rank."""
    columns = {**_PARTS, "step": ("Step", ""), **_HIDDEN}
    rows = tuple(
        text_row(
            LAYOUTS[record.layout].title,
            rank_title(rank, oversubscribed=record.oversubscribed),
            " ".join(record.branches[rank]),
            *(format_number(_MILLI * getattr(seconds, part)) for part in columns),
        )
        for record in records
        for rank, seconds in enumerate(record.ranks)
    )
    sizes = ", ".join(map(str, records[0].batch_structures))
    return Grid(
        label="comm",
        title="Where the time of a step goes",
        caption=f"Milliseconds of the mean of {counted(records[0].steps, 'step')}, measured with "
        f"the profiler; {sizes} structures of the branches in a step. Compute is the forward and "
        "backward pass. Sums of gradients are exposed where a rank waits for them after its "
        "backward pass, and hidden within compute. They run once the last rank has sent its part; "
        "up to then ranks wait for slower ones. Where the encoder is sharded, what it gathers and "
        "sums within the passes counts with its sum. The columns up to Update add up to Step. "
        "Ranks marked as shared are more than the machine has cores; they take turns.",
        columns="lll" + "r" * len(columns),
        header=("Layout", "Rank", "Branches", *(f"{title} (ms)" for title, _ in columns.values())),
        rows=rows,
    )


def draw_comm(records: Sequence[CommRecord]) -> Figure:
    """A stacked bar per rank; beside it, thin, what is hidden behind compute."""
    figure = Figure(figsize=(1.0 + 3.0 * len(records), 3.4))
    panels = figure.subplots(1, len(records), sharey=True, squeeze=False)[0]
    for axes, record in zip(panels, records, strict=True):
        _draw_ranks(axes, record.ranks)
        shared = ", sharing cores" if record.oversubscribed else ""
        axes.set_title(LAYOUTS[record.layout].title)
        axes.set_xlabel(f"Rank{shared}")
        axes.set_xticks(range(len(record.ranks)), _labels(record.branches))
    panels[0].set_ylabel("Mean step (ms), measured")
    legend = [Patch(color=color, label=title) for title, color in _PARTS.values()]
    legend += [
        Patch(facecolor="white", edgecolor=color, hatch="////", label=title)
        for title, color in _HIDDEN.values()
    ]
    figure.legend(handles=legend, loc="outside upper center", ncols=4)
    return figure


def _draw_ranks(axes: Axes, ranks: Sequence[StepTimes]) -> None:
    places = range(len(ranks))
    bottom = [0.0] * len(ranks)
    for part, (_, color) in _PARTS.items():
        heights = [_MILLI * getattr(seconds, part) for seconds in ranks]
        axes.bar(places, heights, 0.6, bottom=bottom, color=color, edgecolor=INK, linewidth=0.3)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    # Hidden sums end with the backward pass, so they are drawn down from there.
    top = [_MILLI * (seconds.data + seconds.compute) for seconds in ranks]
    for part, (_, color) in _HIDDEN.items():
        heights = [_MILLI * getattr(seconds, part) for seconds in ranks]
        top = [high - height for high, height in zip(top, heights, strict=True)]
        axes.bar(
            [place + 0.38 for place in places], heights, 0.12, bottom=top,
            facecolor="white", edgecolor=color, hatch="//////",
            linewidth=[0.8 if height else 0.0 for height in heights],
        )  # fmt: skip
    plain_axes(axes)
    axes.tick_params(axis="x", length=0, labelcolor=FAINT)


def _labels(branches: Sequence[Sequence[str]]) -> list[str]:
    """Rank numbers, over the branches that a rank holds unless all hold the same."""
    same = all(names == branches[0] for names in branches)
    return [
        str(rank) if same else f"{rank}\n" + "\n".join(names) for rank, names in enumerate(branches)
    ]
