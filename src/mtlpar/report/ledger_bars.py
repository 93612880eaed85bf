"""The ledger as bars: the share of each source's rows that went where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from mtlpar.core.fields import SPLITS
from mtlpar.core.ledger import Ledger
from mtlpar.core.wording import counted
from mtlpar.report.items import Scope
from mtlpar.report.load import FloatArray, read_ledgers
from mtlpar.report.names import reason_text, source_title

_SPLIT_COLORS: Final = ("#0072B2", "#56B4E9", "#009E73")
_REASON_COLORS: Final = ("#D55E00", "#E69F00", "#CC79A7")
_OTHER_COLOR: Final = "#999999"
_BLACK_TEXT_ON: Final = ("#56B4E9", "#E69F00", "#CC79A7", _OTHER_COLOR)
# Narrower shares of a bar leave no room for a number.
_ROOM_FOR_TEXT: Final = 0.045


def draw_ledger(scope: Scope) -> Figure:
    """Draw where the rows of each source went, in percent, with their number beside the bar.

    Args:
        scope: What the report is about.

    Raises:
        ValueError: If a ledger is missing, or does not balance.
    """
    ledgers = read_ledgers(workspace=scope.workspace, sources=scope.sources)
    figure = Figure(figsize=(7.2, 1.45 + 0.36 * len(ledgers)))
    axes = figure.add_subplot()
    left = np.zeros(len(ledgers))
    for label, counts, color in _series(tuple(ledgers.values())):
        shares = [
            count / max(ledger.rows, 1)
            for count, ledger in zip(counts, ledgers.values(), strict=True)
        ]
        axes.barh(
            range(len(ledgers)),
            shares,
            left=left,
            height=0.72,
            color=color,
            label=label,
            edgecolor="white",
            linewidth=0.6,
        )
        _print_shares(axes, left, shares, ink="black" if color in _BLACK_TEXT_ON else "white")
        left += shares
    _finish(axes, ledgers)
    _add_legend(figure, axes)
    return figure


def _add_legend(figure: Figure, axes: Axes) -> None:
    """One line for the splits, then the reasons; matplotlib fills column by column."""
    handles, labels = axes.get_legend_handles_labels()
    entries = list(zip(handles, labels, strict=True))
    # As many reasons side by side as there are splits: four are wider than the figure.
    width = len(SPLITS)
    rows = [entries[start : start + width] for start in range(0, len(entries), width)]
    empty = (Rectangle((0, 0), 0, 0, visible=False), "")
    columns = zip(*(row + [empty] * (width - len(row)) for row in rows), strict=True)
    entries = [entry for column in columns for entry in column]
    figure.legend(
        [handle for handle, _ in entries],
        [label for _, label in entries],
        loc="outside lower center",
        ncols=width,
    )


def _series(ledgers: Sequence[Ledger]) -> list[tuple[str, list[int], str]]:
    """Name, rows per source and colour of each part of the bars; rare reasons are one part."""
    series = [
        (split, [ledger.splits[split] for ledger in ledgers], color)
        for split, color in zip(SPLITS, _SPLIT_COLORS, strict=True)
    ]
    totals: dict[str, int] = {}
    for ledger in ledgers:
        for reason, count in ledger.dropped.items():
            totals[reason] = totals.get(reason, 0) + count
    ranked = sorted(filter(totals.get, totals), key=lambda reason: (-totals[reason], reason))
    # As many reasons as there are colours; zip leaves out the rest.
    for reason, color in zip(ranked, _REASON_COLORS, strict=False):
        counts = [ledger.dropped.get(reason, 0) for ledger in ledgers]
        series.append((f"dropped: {reason_text(reason)}", counts, color))
    if rest := ranked[len(_REASON_COLORS) :]:
        counts = [sum(ledger.dropped.get(reason, 0) for reason in rest) for ledger in ledgers]
        name = reason_text(rest[0]) if len(rest) == 1 else f"{len(rest)} other reasons"
        series.append((f"dropped: {name}", counts, _OTHER_COLOR))
    return series


def _print_shares(axes: Axes, left: FloatArray, shares: Sequence[float], *, ink: str) -> None:
    for y, (start, share) in enumerate(zip(left, shares, strict=True)):
        if share >= _ROOM_FOR_TEXT:
            axes.text(
                start + share / 2,
                y,
                f"{share:.0%}",
                ha="center",
                va="center",
                fontsize=8,
                color=ink,
            )


def _finish(axes: Axes, ledgers: Mapping[str, Ledger]) -> None:
    axes.set_yticks(range(len(ledgers)), [source_title(source) for source in ledgers])
    axes.set(xlim=(0, 1), ylim=(len(ledgers) - 0.5, -0.5))
    axes.set_xlabel("Share of the rows of the raw files")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    for y, ledger in enumerate(ledgers.values()):
        axes.text(1.015, y, counted(ledger.rows, "row"), va="center", fontsize=8.5)
