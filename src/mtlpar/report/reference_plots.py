"""Reference energies of each source with their errors, and what they leave of the energies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from ase.data import atomic_numbers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mtlpar.core.products import ReferencesRecord
from mtlpar.report.items import Scope
from mtlpar.report.names import source_title
from mtlpar.report.quality_tables import references_of
from mtlpar.report.style import FAINT, PALETTE, plain_log_axis

_DETERMINED: Final = PALETTE[1]
_UNDETERMINED: Final = PALETTE[2]
# Up to so many elements each has its tick; more are ticked by atomic number.
_NAMED_ELEMENTS: Final = 20


def draw_references(scope: Scope) -> Figure:
    """Draw a row per source: energy, standard error and residuals.

    Raises:
        ValueError: If a references file is missing.
    """
    contents = {source: references_of(scope, source) for source in scope.sources}
    figure = Figure(figsize=(9.6, 0.6 + 1.85 * len(contents)))
    panels = figure.subplots(len(contents), 3, squeeze=False, width_ratios=(1.15, 1.0, 1.0))
    for row, (source, content) in zip(panels, contents.items(), strict=True):
        _draw_energies(row[0], content)
        _draw_errors(row[1], content)
        _draw_residuals(row[2], content)
        row[0].set_title(source_title(source), loc="left", fontweight="bold")
        for axes in row:
            axes.spines[["top", "right"]].set_visible(False)
    if any(content.undetermined for content in contents.values()):
        figure.legend(
            handles=[
                Line2D([], [], marker="o", linestyle="", markersize=3.5, color=color, label=label)
                for color, label in (
                    (_DETERMINED, "determined by the data"),
                    (_UNDETERMINED, "bound to other elements, of minimum norm"),
                )
            ],
            loc="outside lower center",
            ncols=2,
        )
    for axes, title in zip(
        panels[0], (None, "Standard error", "Energies of train without references"), strict=True
    ):
        if title:
            axes.set_title(title, loc="left")
    return figure


def _draw_energies(axes: Axes, content: ReferencesRecord) -> None:
    energies = content.energies_ev
    is_open = [symbol in content.undetermined for symbol in energies]
    errors = [content.standard_errors_ev.get(symbol) or 0.0 for symbol in energies]
    places = _places(list(energies))
    for chosen, color in ((False, _DETERMINED), (True, _UNDETERMINED)):
        rows = [index for index, value in enumerate(is_open) if value is chosen]
        if rows:
            axes.errorbar(
                [places[index] for index in rows],
                [list(energies.values())[index] for index in rows],
                [errors[index] for index in rows],
                fmt="o",
                markersize=3.5,
                elinewidth=1.0,
                capsize=2.0,
                color=color,
            )
    _tick_elements(axes, list(energies))
    # Energies of molecules span three decades below zero, those of solids a few eV.
    if min(energies.values()) < -300:
        axes.set_yscale("symlog", linthresh=1.0)
    axes.axhline(0.0, color=FAINT, linewidth=0.6, zorder=0)
    axes.set_ylabel("Reference (eV)")


def _draw_errors(axes: Axes, content: ReferencesRecord) -> None:
    errors = {k: e for k, e in content.standard_errors_ev.items() if e}
    if not errors:
        axes.text(0.5, 0.5, "given, not fitted", ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    symbols = list(content.energies_ev)
    places = dict(zip(symbols, _places(symbols), strict=True))
    colors = [_UNDETERMINED if symbol in content.undetermined else _DETERMINED for symbol in errors]
    axes.scatter([places[s] for s in errors], list(errors.values()), s=14, c=colors)
    plain_log_axis(axes)
    _tick_elements(axes, symbols)
    axes.set_ylabel("eV")


def _draw_residuals(axes: Axes, content: ReferencesRecord) -> None:
    histogram = content.residuals.histogram
    if histogram is None:
        axes.text(0.5, 0.5, "no energies", ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    edges = np.array(histogram.edges_ev_per_atom)
    axes.stairs(histogram.counts, edges, fill=True, color=_DETERMINED)
    axes.set_yscale("log")
    axes.set_ylabel("Structures")
    axes.set_xlabel("eV/atom")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    rms = content.train_statistics.energy_rms_ev_per_atom or 0.0
    outside = histogram.below + histogram.above
    text = f"RMS {rms:.3g}" + (f"\n{outside:,} outside" if outside else "")
    axes.text(0.98, 0.96, text, ha="right", va="top", transform=axes.transAxes, fontsize=7.5)


def _places(symbols: Sequence[str]) -> list[int]:
    """Where elements stand on the axis: side by side if they are few, else by atomic number."""
    if len(symbols) <= _NAMED_ELEMENTS:
        return list(range(len(symbols)))
    return [atomic_numbers[symbol] for symbol in symbols]


def _tick_elements(axes: Axes, symbols: list[str]) -> None:
    if len(symbols) <= _NAMED_ELEMENTS:
        axes.set_xticks(range(len(symbols)), symbols, fontsize=7.5)
        axes.set_xlim(-0.7, len(symbols) - 0.3)
    else:
        axes.set_xlabel("Atomic number")
