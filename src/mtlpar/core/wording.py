"""Numbers with the word they count."""

from __future__ import annotations

from typing import Final

_ENDINGS_WITH_ES: Final = ("ch", "s", "x")
_VOWELS: Final = "aeiou"


def counted(number: int, what: str) -> str:
    """A number of things in words: "1 rank", "2 branches", "1,200 energies".

    Args:
        number: How many.
        what: One of them, with a regular plural.
    """
    return f"{number:,} {what if number == 1 else _plural(what)}"


def _plural(what: str) -> str:
    if what.endswith("y") and what[-2] not in _VOWELS:
        return f"{what[:-1]}ies"
    # The end of an epoch is spoken as a k.
    with_es = what.endswith(_ENDINGS_WITH_ES) and not what.endswith("epoch")
    return f"{what}es" if with_es else f"{what}s"
