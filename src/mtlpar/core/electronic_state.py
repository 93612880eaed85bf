"""Charge and spin multiplicity as files and programs write them: one policy for all readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

MOST: Final = int(np.iinfo(np.int8).max)
"""Largest charge and multiplicity; columns keep them in a byte."""

CHARGE_KEYS: Final = ("charge", "total_charge")
"""Where the total charge is looked for, if nothing else is stated."""

SPIN_KEYS: Final = ("spin", "multiplicity")
"""Where the spin multiplicity 2S+1 is looked for, if nothing else is stated."""

# Sums of charges of the atoms are whole up to rounding.
_ROUNDING: Final = 1e-6


def find_charge(
    labels: Mapping[str, Any], where: str, *, keys: tuple[str, ...] = CHARGE_KEYS
) -> int:
    """Total charge in e, 0 where nothing says it; of charges of the atoms the sum.

    Args:
        labels: What a structure says of itself, by key.
        where: Place of the structure, for messages.
        keys: Where to look.

    Raises:
        ValueError: If it is not a whole number up to rounding, or two keys contradict each other.
    """
    return _find(labels, keys, where, least=-MOST)


def find_spin(labels: Mapping[str, Any], where: str, *, keys: tuple[str, ...] = SPIN_KEYS) -> int:
    """Spin multiplicity 2S+1, 0 where nothing says it; see `find_charge`."""
    return _find(labels, keys, where, least=0)


def _find(labels: Mapping[str, Any], keys: tuple[str, ...], where: str, *, least: int) -> int:
    found: dict[str, int] = {}
    for key in keys:
        value = labels.get(key)
        if value is not None:
            found[key] = _as_whole(value, key, where, least=least)
    if len(found) > 1 and len(set(found.values())) > 1:
        raise ValueError(f"{where}: {found} contradict each other; keep the one that counts")
    return next(iter(found.values()), 0)


def _as_whole(value: Any, key: str, where: str, *, least: int) -> int:
    if type(value) is int and least <= value <= MOST:
        return value
    array = np.asarray(value)
    is_number = array.dtype.kind in "fiu"
    total = float(array.astype(np.float64).sum()) if is_number else np.nan
    whole = round(total) if np.isfinite(total) else 0
    if not abs(total - whole) <= _ROUNDING or not least <= whole <= MOST:
        got = total if is_number else f"{value!r:.80}"
        raise ValueError(
            f"{where}: {key!r} is {got}, expected an integer from {least} to {MOST}; if it means "
            "something else, give it another name, or name another key or none"
        )
    return whole
