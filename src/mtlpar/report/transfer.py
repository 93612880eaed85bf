"""Table and figure of the transfer study: what starting from a trained model saves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

from mtlpar.core.error_names import ERROR_UNITS
from mtlpar.core.measurements import ErrorsByLabel, TransferCell, TransferRecord
from mtlpar.core.wording import counted
from mtlpar.report.grid import Cell, Grid, format_number, text_row
from mtlpar.report.style import (
    FAINT,
    PALETTE,
    draw_repeats,
    legend_above,
    numbers_axis,
    plain_axes,
    plain_log_axis,
)

_LABELS: Final = ("energy", "forces")
_SCRATCH: Final = "scratch"
_HEADER: Final = (
    "Family", "Labels", "Start", "Energy (eV/atom)", "range", "Forces (eV/Å)", "range",
    "of scratch", "Labels saved", "range", "Before (×)",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Point:
    """One variant with one number of labels, over the seeds.

    Attributes:
        errors: Test errors by label, one for each seed.
        forgotten: Error on the test sets of pre-training over that before, by seed; the mean over
            sources and labels.
    """

    errors: dict[str, list[float]]
    forgotten: list[float]


Curves = dict[str, dict[str, dict[int, _Point]]]
"""Points by family, variant and number of labels."""


def curves_of(records: Sequence[TransferRecord]) -> Curves:
    """Gather the records of all families and seeds."""
    found: Curves = {}
    for record in sorted(records, key=lambda one: one.seed):
        family = found.setdefault(record.family, {})
        for cell in record.cells:
            points = family.setdefault(_name_of(cell, record), {})
            point = points.setdefault(cell.labels, _Point(errors=defaultdict(list), forgotten=[]))
            for label in _LABELS:
                if label in cell.errors:
                    point.errors[label].append(cell.errors[label])
            if cell.start is not None and cell.pretraining:
                point.forgotten.append(_growth(record.before[cell.start], cell.pretraining))
    return found


def _name_of(cell: TransferCell, record: TransferRecord) -> str:
    """What a variant is called; the model of one source is another one for each family."""
    if cell.start is None:
        return _SCRATCH
    return f"{'single source' if cell.start == record.single else cell.start}, {cell.mode}"


def _growth(before: Mapping[str, ErrorsByLabel], after: Mapping[str, ErrorsByLabel]) -> float:
    """Mean ratio of errors after and before, over sources and labels (geometric)."""
    ratios = [
        after[source][label] / before[source][label]
        for source in after
        for label in _LABELS
        if label in after[source]
    ]
    return float(np.exp(np.mean(np.log(ratios))))


def labels_saved(scratch: Mapping[int, float], labels: int, error: float) -> float:
    """How many times as many labels training from scratch needs for an error.

    Its learning curve is a line between logarithms of labels and errors, through the values that
    fall all along and are nearest to the measured ones (isotonic regression: few labels do well by
    chance). An error below all of it needs more than there are: infinity.

    Args:
        scratch: Errors from scratch by number of labels.
        labels: Labels that reached the error.
        error: The error.
    """
    counts = sorted(scratch)
    measured = np.log([scratch[count] for count in counts])
    logs = isotonic_regression(measured, increasing=False).x
    reached = np.flatnonzero(logs <= np.log(error) + 1e-9)
    if not reached.size:
        return np.inf
    # The first number of labels that reaches it, and the one before.
    last = int(reached[0])
    ends = slice(max(0, last - 1), last + 1)
    needed = np.exp(np.interp(-np.log(error), -logs[ends], np.log(counts[ends])))
    return float(needed / labels)


def transfer_grid(records: Sequence[TransferRecord]) -> Grid:
    """Errors by family, number of labels and start, and what the start saves."""
    rows = []
    for family, variants in curves_of(records).items():
        scratch = variants[_SCRATCH]
        for labels in sorted(scratch):
            for name, points in variants.items():
                rows.append(_row(family, labels, name, points[labels], scratch))
    seeds = len({record.seed for record in records})
    singles = {record.family: record.single for record in records}
    steps = records[0].steps
    return Grid(
        label="transfer",
        title="What pre-training saves",
        caption=f"Mean test errors over {counted(seeds, 'seed')} and their range, on families at "
        f"levels of theory that no model saw; every training takes {counted(steps, 'step')}. "
        "Labels include those of validation. Of scratch: error of forces over that from scratch "
        "with the same labels. Labels saved: how many times as many labels scratch needs for the "
        "same error of forces; > where more than were tried. Before: errors on the test sets of "
        "pre-training, over those of the model that was started from (geometric mean). Single "
        f"source: {', '.join(f'{single} for {family}' for family, single in singles.items())}.",
        columns="lrlrlrlrrlr",
        header=_HEADER,
        rows=tuple(rows),
    )


def _row(
    family: str, labels: int, name: str, point: _Point, scratch: Mapping[int, _Point]
) -> tuple[Cell, ...]:
    texts = [family, str(labels), name]
    for label in _LABELS:
        values = point.errors[label]
        texts += [format_number(float(np.mean(values))), _range(values)]
    ratios = np.divide(point.errors["forces"], scratch[labels].errors["forces"])
    saved = [] if name == _SCRATCH else _saved(point, labels, scratch)
    largest = max(scratch) / labels
    texts += [
        f"{np.mean(ratios):.2f}",
        _times(float(np.mean(saved)), largest) if saved else "",
        f"{_times(min(saved), largest)} to {_times(max(saved), largest)}" if saved else "",
        f"{np.mean(point.forgotten):.2f}" if point.forgotten else "",
    ]
    return text_row(*texts)


def _saved(point: _Point, labels: int, scratch: Mapping[int, _Point]) -> list[float]:
    """Labels saved, seed by seed."""
    return [
        labels_saved({k: one.errors["forces"][seed] for k, one in scratch.items()}, labels, error)
        for seed, error in enumerate(point.errors["forces"])
    ]


def _times(factor: float, largest: float) -> str:
    return f"{factor:.1f}" if np.isfinite(factor) else f"> {largest:.1f}"


def _range(values: Sequence[float]) -> str:
    return f"{format_number(min(values))} to {format_number(max(values))}"


def draw_transfer(records: Sequence[TransferRecord]) -> Figure:
    """Learning curves by family, and below them what became of the pre-training."""
    curves = curves_of(records)
    names = list(dict.fromkeys(name for variants in curves.values() for name in variants))
    colors = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}
    figure = Figure(figsize=(2.7 * len(curves) + 0.6, 6.6))
    axes = figure.subplots(3, len(curves), squeeze=False, sharex=True, sharey="row")
    for column, (family, variants) in enumerate(curves.items()):
        axes[0, column].set_title(family)
        for name, points in variants.items():
            for row, label in enumerate(_LABELS):
                values = {k: point.errors[label] for k, point in points.items()}
                _draw_curve(axes[row, column], values, colors[name], is_base=name == _SCRATCH)
            forgotten = {k: point.forgotten for k, point in points.items() if point.forgotten}
            if forgotten:
                _draw_curve(axes[2, column], forgotten, colors[name], is_base=False)
        axes[2, column].axhline(1.0, color=FAINT, linewidth=0.8, linestyle=":")
        axes[2, column].set_xlabel("Labels")
        for one in axes[:, column]:
            numbers_axis(one, sorted(next(iter(variants.values()))), base=10)
            plain_log_axis(one)
            plain_axes(one)
    for row, label in enumerate(_LABELS):
        axes[row, 0].set_ylabel(f"{label.capitalize()} MAE ({ERROR_UNITS[label]})")
    axes[2, 0].set_ylabel("Error on pre-training,\nafter / before")
    handles = [Line2D([], [], color=color, label=name) for name, color in colors.items()]
    legend_above(figure, handles, columns=3)
    return figure


def _draw_curve(
    axes: Axes, values: Mapping[int, Sequence[float]], color: str, *, is_base: bool
) -> None:
    """A line through the means with bars from the smallest to the largest value."""
    draw_repeats(
        axes,
        dict(sorted(values.items())),
        lambda repeats: float(np.mean(repeats)),
        color=color,
        linewidth=1.8 if is_base else 1.2,
        linestyle="--" if is_base else "-",
        marker="o",
        markersize=3,
    )
