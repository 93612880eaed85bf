"""Labels what is made of leaky splits, wherever it appears."""

from __future__ import annotations

from dataclasses import replace

from mtlpar.report.grid import Grid
from mtlpar.report.items import Scope
from mtlpar.report.load import read_ledgers
from mtlpar.report.names import source_title


def leaky_note(scope: Scope) -> str | None:
    """What to say beside anything made of splits by frames; None where all are by groups.

    Raises:
        ValueError: If a ledger is missing or does not balance.
    """
    ledgers = read_ledgers(workspace=scope.workspace, sources=scope.sources)
    leaky = [source_title(source) for source, ledger in ledgers.items() if ledger.is_leaky]
    if not leaky:
        return None
    return (
        f"LEAKY SPLITS ({', '.join(leaky)}): single frames were split, so test sets hold frames of "
        "molecules and materials that models were trained on"
    )


def label_grid(grid: Grid, note: str | None) -> Grid:
    """A table with the note in its title and caption."""
    if note is None:
        return grid
    return replace(grid, title=f"{grid.title}, leaky splits", caption=f"{grid.caption} {note}.")
