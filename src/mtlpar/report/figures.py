"""Draws each figure by name and writes it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import partial
from typing import Final

from matplotlib.figure import Figure

from mtlpar.report.calibration import draw_calibration
from mtlpar.report.curves import draw_learning_curves
from mtlpar.report.heatmap import draw_heatmap
from mtlpar.report.items import ENERGY_MAE, FORCE_MAE, STRESS_MAE, Item, Scope
from mtlpar.report.leaky import leaky_note
from mtlpar.report.ledger_bars import draw_ledger
from mtlpar.report.parity import draw_parity
from mtlpar.report.reference_plots import draw_references
from mtlpar.report.style import house_style, save_figure

_DRAW: Final[dict[str, Callable[[Scope], Figure]]] = {
    "heatmap_energy": partial(draw_heatmap, quantity=ENERGY_MAE),
    "heatmap_force": partial(draw_heatmap, quantity=FORCE_MAE),
    "parity_energy": partial(draw_parity, quantity=ENERGY_MAE),
    "parity_force": partial(draw_parity, quantity=FORCE_MAE),
    "parity_stress": partial(draw_parity, quantity=STRESS_MAE),
    "calibration": draw_calibration,
    "learning_curves": draw_learning_curves,
    "ledger_figure": draw_ledger,
    "reference_energies": draw_references,
}

_WARNING_COLOR: Final = "#B00020"


def write_figure(item: Item, scope: Scope) -> None:
    """Draw a figure and write it as PNG and SVG.

    Raises:
        ValueError: If an input is missing or not usable.
    """
    note = leaky_note(scope)
    with house_style():
        figure = _DRAW[item.name](scope)
        if note:
            figure.suptitle(textwrap.fill(note, 100), fontsize=7.5, color=_WARNING_COLOR)
        save_figure(figure, scope.workspace.figures, item.name, dpi=scope.settings.dpi)
