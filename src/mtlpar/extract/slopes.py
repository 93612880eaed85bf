"""Distributions of ratios that should be one, gathered block by block and file by file."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_BINS_PER_E: Final = 50
# Larger ratios, and those to zero, are counted as this one.
_LARGEST: Final = 1e9


class Slopes:
    """Ratios by sign and logarithm, each known to 1 %.

    Attributes:
        bins: Number of ratios; keys are (sign, bin).
    """

    def __init__(self) -> None:
        """Start without ratios."""
        self.bins: Counter[tuple[int, int]] = Counter()

    def add(self, change: FloatArray, expected: FloatArray) -> None:
        """Take in the ratios ``change / expected``; either may be zero, but not both."""
        with np.errstate(divide="ignore"):
            ratio = change / expected
        size = np.clip(np.abs(ratio), 1 / _LARGEST, _LARGEST)
        places = np.rint(_BINS_PER_E * np.log(size)).astype(np.int64)
        signs = np.where(ratio < 0, -1, 1)
        self.bins.update(zip(signs.tolist(), places.tolist(), strict=True))

    def merge(self, other: Slopes) -> None:
        """Take in the ratios of another part of the data."""
        self.bins.update(other.bins)

    @property
    def count(self) -> int:
        """Ratios taken in."""
        return self.bins.total()

    def quantile(self, share: float, *, at_least: int) -> float | None:
        """A quantile to 1 %; None if there are fewer ratios than ``at_least``."""
        if self.count < at_least:
            return None
        wanted = share * (self.count - 1)
        ratios = sorted(
            (sign * float(np.exp(place / _BINS_PER_E)), count)
            for (sign, place), count in self.bins.items()
        )
        seen = 0
        for ratio, count in ratios:
            seen += count
            if seen > wanted:
                return ratio
        raise AssertionError("counts add up to the total")

    def quartiles(self, *, at_least: int) -> tuple[float, float, float] | None:
        """Lower quartile, median and upper quartile; None if there are too few ratios."""
        low, median, high = (self.quantile(share, at_least=at_least) for share in (0.25, 0.5, 0.75))
        return None if low is None or median is None or high is None else (low, median, high)

    def as_dict(self, *, at_least: int) -> dict[str, Any]:
        """What the manifest keeps: slope and quartiles, null where rows are no trajectory."""
        found = self.quartiles(at_least=at_least)
        return {
            "pairs": self.count,
            "slope": None if found is None else found[1],
            "quartiles": None if found is None else [found[0], found[2]],
        }

    def to_record(self) -> list[list[int]]:
        """Sign, place and count of every bin, which `from_record` reads."""
        return [[*bin_, count] for bin_, count in sorted(self.bins.items())]

    @classmethod
    def from_record(cls, content: list[list[int]]) -> Slopes:
        """What `to_record` wrote."""
        slopes = cls()
        slopes.bins.update({(sign, place): count for sign, place, count in content})
        return slopes
