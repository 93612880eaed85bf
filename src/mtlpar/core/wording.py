"""Numbers with the word they count."""

from __future__ import annotations

from typing import Final

_ENDINGS_WITH_ES: Final = ("ch", "s", "x")


def counted(number: int, what: str) -> str:
    """A number of things in words: "1 rank", "2 branches", "1,200 structures".

    Args:
        number: How many.
        what: One of them, with a regular plural.
    """
    if number != 1:
        what += "es" if what.endswith(_ENDINGS_WITH_ES) else "s"
    return f"{number:,} {what}"
