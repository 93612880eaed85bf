"""How layouts are called and coloured in tables and figures, predicted or measured."""

from __future__ import annotations

from typing import Final, NamedTuple

from mtlpar.report.style import PALETTE


class Look(NamedTuple):
    """Name for people, and colour, of a layout."""

    title: str
    color: str


LAYOUTS: Final = {
    "mtl-base": Look("MTL-base", PALETTE[2]),
    "mtl-par": Look("MTL-par", PALETTE[1]),
    "mtl-par-sharded": Look("MTL-par, encoder sharded", PALETTE[3]),
}
"""Layouts that studies measure, in the order of legends."""


def rank_title(rank: int, *, oversubscribed: bool) -> str:
    """A rank, or a number of ranks, marked where ranks share cores and take turns."""
    return f"{rank}{' (shared)' if oversubscribed else ''}"
