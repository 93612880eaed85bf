"""A ``.bp`` folder in one picture: elements, sizes, energies and forces."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from mtlpar.core.files import atomic_path
from mtlpar.core.wording import counted
from mtlpar.report.pack_text import energy_title
from mtlpar.report.style import FAINT, PALETTE, house_style
from mtlpar.store.summary import FORCE_EDGES_EV_PER_ANGSTROM, FloatArray, Summary

_COLOR: Final = PALETTE[1]
_BINS: Final = 60
_MAX_ELEMENTS: Final = 25
_FEW_DECADES: Final = 1e2
# Energies beyond these percentiles would squeeze the others into one bar.
_SHOWN_PERCENTILES: Final = (0.1, 99.9)


def write_pack_figure(summary: Summary, path: Path, *, dpi: int = 150) -> None:
    """Draw a summary and write it as PNG.

    Raises:
        ValueError: If the file's name does not end in ``.png``.
    """
    if path.suffix != ".png":
        raise ValueError(f"{path}: figures are written as .png, got {path.suffix!r}")
    with house_style():
        figure = draw_pack(summary)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


def draw_pack(summary: Summary) -> Figure:
    """Draw composition, sizes, energies per atom and lengths of forces."""
    figure = Figure(figsize=(7.2, 5.0))
    axes = figure.subplots(2, 2)
    _draw_elements(axes[0, 0], summary)
    _draw_sizes(axes[0, 1], summary)
    _draw_energies(axes[1, 0], summary)
    _draw_forces(axes[1, 1], summary)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(summary), fontsize=10)
    return figure


def _title(summary: Summary) -> str:
    header = summary.header
    name = " ".join(name for name in (header.source, header.split) if name)
    leaky = ", leaky splits" if header.leaky else ""
    sample = "" if summary.is_complete else f" (sample of {summary.structures:,})"
    return (
        f"{name or summary.path.name}: {counted(header.num_structures, 'structure')}{sample}{leaky}"
    )


def _draw_elements(axes: Axes, summary: Summary) -> None:
    counts = summary.atoms_of_element.most_common(_MAX_ELEMENTS)
    total = summary.atoms_of_element.total()
    axes.bar(range(len(counts)), [count / total for _, count in counts], color=_COLOR)
    many = len(counts) > _MAX_ELEMENTS // 2
    axes.set_xticks(range(len(counts)), [symbol for symbol, _ in counts], fontsize=5 if many else 8)
    axes.margins(x=0.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_title("Elements, share of atoms")
    left_out = len(summary.atoms_of_element) - len(counts)
    if left_out:
        _remark(axes, f"{left_out} rarer elements not shown")


def _draw_sizes(axes: Axes, summary: Summary) -> None:
    sizes = np.array(sorted(summary.structures_of_size))
    counts = [summary.structures_of_size[size] for size in sizes.tolist()]
    width = max(1, -(-int(sizes[-1] - sizes[0] + 1) // _BINS))
    edges = np.arange(sizes[0], sizes[-1] + width + 1, width) - 0.5
    axes.hist(sizes, edges.tolist(), weights=counts, color=_COLOR)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title="Sizes", xlabel="atoms per structure", ylabel="structures")


def _draw_energies(axes: Axes, summary: Summary) -> None:
    energies = summary.energies_ev_per_atom
    if len(energies) == 0:
        _say_nothing(axes, "no energies")
        return
    low, high = np.percentile(energies, _SHOWN_PERCENTILES)
    shown = energies[(energies >= low) & (energies <= high)]
    bins = min(_BINS, max(_BINS // 4, math.isqrt(len(energies))))
    axes.hist(shown if len(shown) else energies, bins, color=_COLOR)
    axes.set(title=energy_title(summary), xlabel="eV/atom", ylabel="structures")
    outside = len(energies) - len(shown)
    if 0 < outside < len(energies):
        _remark(axes, f"{outside:,} outside\n{energies.min():.3g} to {energies.max():.3g}")


def _draw_forces(axes: Axes, summary: Summary) -> None:
    edges: FloatArray = FORCE_EDGES_EV_PER_ANGSTROM
    if not summary.atoms_of_force.any():
        _say_nothing(axes, "no forces")
        return
    axes.stairs(summary.atoms_of_force, edges, fill=True, color=_COLOR)
    axes.set_xscale("log")
    filled = np.flatnonzero(summary.atoms_of_force)
    low, high = edges[filled[0]], edges[filled[-1] + 1]
    axes.set_xlim(low, high)
    if high < _FEW_DECADES * low:
        # Powers of ten would be one label or none, and matplotlib then writes them all, one over
        # the other.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(title="Forces", xlabel="length on an atom, eV/Å", ylabel="atoms")
    below = f"\nfirst bar: up to {edges[1]:.1e}" if filled[0] == 0 else ""
    _remark(axes, f"longest {summary.max_force_ev_per_angstrom:.3g}{below}")


def _say_nothing(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=FAINT)
    axes.set(xticks=[], yticks=[])


def _remark(axes: Axes, text: str) -> None:
    axes.text(
        0.98, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=7, color=FAINT
    )
