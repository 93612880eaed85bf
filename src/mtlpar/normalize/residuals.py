"""How the energies per atom are spread once references are taken off, and which stand apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import SPLITS
from mtlpar.core.hashing import UInt64Array
from mtlpar.normalize.books import Books
from mtlpar.normalize.split import TRAIN

FloatArray = npt.NDArray[np.float64]

_QUANTILES: Final = (0.0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)
_NUM_BINS: Final = 80
_LISTED: Final = 10
# Median absolute deviation of a normal distribution with unit standard deviation, inverted.
_DEVIATIONS_OF_NORMAL: Final = 1.4826
_SMALLEST_DEVIATION_EV_PER_ATOM: Final = 1e-6
# What counts as a second level of theory: size of the smaller group, and the gap between them.
_SMALLEST_LEVEL: Final = 5
_SMALLEST_LEVEL_SHARE: Final = 0.02
_GAP_TO_WIDTH: Final = 2.0
_SMALLEST_GAP_EV_PER_ATOM: Final = 0.1
# No bond is worth more per atom: cohesive energies end at 9 eV/atom (tungsten, tantalum).
IMPLAUSIBLE_SPREAD_EV_PER_ATOM: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Centre and width of the training targets, not moved by a few outliers (eV/atom)."""

    median: float
    deviation: float


def measure_spread(train_target: FloatArray) -> Spread:
    """Median and robust standard deviation of training targets (S,); of none zero."""
    if len(train_target) == 0:
        return Spread(median=0.0, deviation=_SMALLEST_DEVIATION_EV_PER_ATOM)
    median = float(np.median(train_target))
    deviation = _DEVIATIONS_OF_NORMAL * float(np.median(np.abs(train_target - median)))
    return Spread(median=median, deviation=max(deviation, _SMALLEST_DEVIATION_EV_PER_ATOM))


def describe_residuals(train_target: FloatArray, spread: Spread) -> dict[str, Any]:
    """Quantiles and histogram of training targets (S,), as ``references.json`` holds them.

    The histogram spans the middle 99.8 %; what lies outside is counted at both ends. Without any
    target there is nothing to describe.
    """
    if len(train_target) == 0:
        return {}
    quantiles = np.quantile(train_target, _QUANTILES)
    low, high = quantiles[_QUANTILES.index(0.001)], quantiles[_QUANTILES.index(0.999)]
    margin = max(1e-3 * (high - low), _SMALLEST_DEVIATION_EV_PER_ATOM)
    edges = np.linspace(low - margin, high + margin, _NUM_BINS + 1)
    counts, _ = np.histogram(train_target, edges)
    return {
        "median_ev_per_atom": spread.median,
        "robust_deviation_ev_per_atom": spread.deviation,
        "quantiles_ev_per_atom": dict(zip(map(str, _QUANTILES), quantiles.tolist(), strict=True)),
        "histogram": {
            "edges_ev_per_atom": edges.tolist(),
            "counts": counts.tolist(),
            "below": int((train_target < edges[0]).sum()),
            "above": int((train_target > edges[-1]).sum()),
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoLevels:
    """Training targets that fall into two groups.

    Attributes:
        distance_ev_per_atom: Between the medians of the groups.
        sizes: Structures in each.
    """

    distance_ev_per_atom: float
    sizes: tuple[int, int]


def find_two_levels(train_target: FloatArray) -> TwoLevels | None:
    """Look for two groups of targets with nothing between them: perhaps two levels of theory.

    Other reference states, functionals or programs move energies by far more than structures of
    one level differ, once references are off. The widest gap between neighbouring targets is taken
    to part two groups if it is wider than the middle 90 % of each, and neither is small.

    Args:
        train_target: Training targets in eV/atom, (S,).
    """
    ordered = np.sort(train_target)
    least = max(_SMALLEST_LEVEL, math.ceil(_SMALLEST_LEVEL_SHARE * len(ordered)))
    if len(ordered) < 2 * least:
        return None
    gaps = np.diff(ordered)[least - 1 : len(ordered) - least]
    cut = least + int(np.argmax(gaps))
    low, high = ordered[:cut], ordered[cut:]
    widths = [float(np.ptp(np.quantile(part, (0.05, 0.95)))) for part in (low, high)]
    gap = float(gaps.max())
    if gap < max(_GAP_TO_WIDTH * max(widths), _SMALLEST_GAP_EV_PER_ATOM):
        return None
    distance = float(np.median(high) - np.median(low))
    return TwoLevels(distance_ev_per_atom=distance, sizes=(len(low), len(high)))


def above_lowest(target: FloatArray, composition: UInt64Array) -> FloatArray:
    """How far energies per atom (eV, (S,)) lie above the lowest of their composition.

    References are the same for all structures of one composition, so these differences show a
    second level of theory even where references were fitted to both and hide it. The lowest
    structure of each composition, which would be zero, is left out.

    Args:
        target: Energies per atom with or without references, (S,).
        composition: Hash of the composition of each structure, (S,).
    """
    order = np.lexsort((target, composition))
    composition, target = composition[order], target[order]
    is_lowest = np.diff(composition, prepend=~composition[:1]) != 0
    lowest = target[is_lowest][np.cumsum(is_lowest) - 1]
    above: FloatArray = (target - lowest)[~is_lowest]
    return above


def find_outliers(
    target: FloatArray,
    books: Books,
    structure_id: UInt64Array,
    *,
    spread: Spread,
    deviations: float,
) -> dict[str, Any]:
    """Count structures whose energy per atom stands apart, and list the most extreme.

    They are kept: far from equilibrium is not wrong, and dropping rows is the user's decision.

    Args:
        target: Energy per atom without references, NaN where dropped, (S,).
        books: Splits and raw files of the structures.
        structure_id: Hash of each structure, (S,).
        spread: Centre and width of the training targets.
        deviations: Limit in robust standard deviations.
    """
    distance = np.abs(np.nan_to_num(target, nan=spread.median) - spread.median)
    far = np.flatnonzero(distance > deviations * spread.deviation)
    # Ties are broken by hash, so that the order of the files does not show.
    worst = far[np.lexsort((structure_id[far], -distance[far]))[:_LISTED]]
    files = np.searchsorted(books.file_ends, worst, side="right")
    return {
        "limit_ev_per_atom": deviations * spread.deviation,
        "count": len(far),
        "in_train": int((books.split[far] == TRAIN).sum()),
        "worst": [
            {
                "structure_id": f"{structure_id[index]:016x}",
                "file": books.file_names[file],
                "split": SPLITS[books.split[index]],
                "distance_from_median_ev_per_atom": float(target[index] - spread.median),
            }
            for index, file in zip(worst.tolist(), files.tolist(), strict=True)
        ],
    }
