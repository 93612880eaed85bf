"""Groups of names of which every two belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def grouped(
    names: Iterable[str],
    pairs: Iterable[tuple[str, str]],
    belong_together: Callable[[str, str], bool],
) -> list[tuple[str, ...]]:
    """Merge names into groups, pair by pair (complete linkage).

    Args:
        names: All names; one that belongs to none is a group of its own.
        pairs: All pairs, those to merge first in front.
        belong_together: Whether two names may be in one group, in whichever order.
    """
    groups: list[tuple[str, ...]] = [(name,) for name in names]
    for pair in pairs:
        one, other = (next(group for group in groups if name in group) for name in pair)
        if one != other and all(belong_together(a, b) for a in one for b in other):
            groups = [(*one, *other) if group == one else group for group in groups]
            groups.remove(other)
    return groups
