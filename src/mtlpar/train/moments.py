"""Sums of products of features without rounding: the same for any order and any partition.

A number is written as three signed digits of 18 bits, down to 2^-37. Products of digits are below
2^36, so float64 and BLAS add up those of `MAX_ROWS` structures exactly, and integers those of all.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MAX_ROWS: Final = 1 << 14
"""Structures that may be added at a time."""

_DIGITS: Final = 3
_DIGIT_BITS: Final = 18
_LARGEST: Final = 2.0 ** (_DIGIT_BITS - 1)


class ExactMoments:
    """Sum of phi phi^T over structures.

    Attributes:
        levels: The sum is that of 2^(-18 k) times the k-th of these, (5, K, K) int64.
    """

    def __init__(self, size: int) -> None:
        """Start with nothing; phi has so many components."""
        self.levels: npt.NDArray[np.int64] = np.zeros((2 * _DIGITS - 1, size, size), np.int64)

    def add(self, features: FloatArray) -> None:
        """Add structures by their phi, (S, K).

        Raises:
            ValueError: If a component is too large or no number.
        """
        if len(features) > MAX_ROWS:
            raise ValueError(f"expected at most {MAX_ROWS} structures at a time")
        # Written so that what is no number is one of them.
        wrong = features[~(np.abs(features) < _LARGEST)]
        if len(wrong):
            raise ValueError(f"expected finite features below {_LARGEST:g}, got {wrong[0]:g}")
        digits, rest = [], features.astype(np.float64)
        for place in range(_DIGITS):
            unit = 2.0 ** (-_DIGIT_BITS * place)
            digits.append(np.rint(rest / unit))
            rest -= digits[-1] * unit
        for high, left in enumerate(digits):
            for low, right in enumerate(digits):
                self.levels[high + low] += (left.T @ right).astype(np.int64)
        self.carry()

    def carry(self) -> None:
        """Bring the levels below the first within 18 bits, which leaves the sum as it is.

        Levels of several sums may be added to one another if this is called afterwards.
        """
        for level in range(len(self.levels) - 1, 0, -1):
            excess = self.levels[level] >> _DIGIT_BITS
            self.levels[level] -= excess << _DIGIT_BITS
            self.levels[level - 1] += excess

    def mean(self, count: int) -> FloatArray:
        """The sum over a number of structures, (K, K)."""
        total = np.zeros(self.levels.shape[1:])
        for level in self.levels[::-1]:
            total = total / 2.0**_DIGIT_BITS + level
        return total / count
