"""Sums of float64 numbers without rounding: the same for any order and any partition.

A number is written as five signed digits of 18 bits. Sums of digits, and of products of digits with
small integers or with each other, stay below 2^53, so float64 and BLAS add them exactly.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_DIGIT_BITS: Final = 18
_NUM_DIGITS: Final = 5
_LOWEST_BIT: Final = -57
_LARGEST: Final = 2.0 ** (_LOWEST_BIT + _NUM_DIGITS * _DIGIT_BITS - 1)
_WEIGHTS: Final = [1 << _DIGIT_BITS * place for place in reversed(range(_NUM_DIGITS))]

QUANTA_PER_UNIT: Final = 1 << -_LOWEST_BIT
"""Exact sums are integers that count 2^-57; smaller parts of a number are rounded off."""

MAX_ROWS: Final = 1 << 14
"""Rows that may be added before their sum is turned into integers by `to_quanta`."""


def to_digits(values: npt.NDArray[Any]) -> FloatArray:
    """Write finite numbers below 2^32 as digits, the highest first: (S,) to (S, 5).

    Raises:
        ValueError: If a number is too large or not finite.
    """
    rest = values.astype(np.float64)
    # Written so that what is no number is one of them.
    too_large = rest[~(np.abs(rest) < _LARGEST)]
    if len(too_large):
        raise ValueError(f"expected finite numbers below {_LARGEST:g}, got {too_large[0]:g}")
    digits = np.empty((len(rest), _NUM_DIGITS))
    for place in range(_NUM_DIGITS):
        unit = 2.0 ** (_LOWEST_BIT + (_NUM_DIGITS - 1 - place) * _DIGIT_BITS)
        digits[:, place] = np.rint(rest / unit)
        rest -= digits[:, place] * unit
    return digits


def to_quanta(digit_sums: FloatArray) -> npt.NDArray[np.object_]:
    """Sums of digits (..., 5) as integers (...), which have no bounds."""
    quanta: npt.NDArray[np.object_] = digit_sums.astype(np.int64).astype(object) @ np.array(
        _WEIGHTS, dtype=object
    )
    return quanta


def square_quanta(digits: FloatArray) -> int:
    """Sum of squares of at most `MAX_ROWS` numbers, counted in 2^-114."""
    products = (digits.T @ digits).astype(np.int64).astype(object)
    weights = np.array(_WEIGHTS, dtype=object)
    return int(weights @ products @ weights)


def exact_sum(values: npt.NDArray[Any]) -> int:
    """Sum of finite numbers below 2^32, counted in 2^-57."""
    return int(to_quanta(to_digits(values).sum(axis=0)[None])[0])


def from_quanta(quanta: int) -> float:
    """The float64 nearest to an exact sum."""
    return quanta / QUANTA_PER_UNIT
