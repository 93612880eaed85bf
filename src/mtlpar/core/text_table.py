"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(
    rows: Sequence[Sequence[str]], columns: str | None = None, *, indent: int = 0
) -> list[str]:
    """Lines of a table, with columns two spaces apart.

    Args:
        rows: Texts of the rows, the header among them.
        columns: ``l`` or ``r`` for each column; by default all but the first are to the right.
        indent: Spaces before each line.
    """
    sides = columns or "l" + "r" * (len(rows[0]) - 1)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        " " * indent
        + "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        ).rstrip()
        for row in rows
    ]
