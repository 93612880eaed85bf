"""How the energies per atom are spread once references are taken off, and which stand apart."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Centre and width of the training targets, not moved by a few outliers (eV/atom)."""

    median: float
    deviation: float


def measure_spread(train_target: FloatArray) -> Spread:
    """Median and robust standard deviation of training targets (S,)."""
    median = float(np.median(train_target))
    deviation = _DEVIATIONS_OF_NORMAL * float(np.median(np.abs(train_target - median)))
    return Spread(median=median, deviation=max(deviation, _SMALLEST_DEVIATION_EV_PER_ATOM))


def describe_residuals(train_target: FloatArray, spread: Spread) -> dict[str, Any]:
    """Quantiles and histogram of training targets (S,), as ``references.json`` holds them.

    The histogram spans the middle 99.8 %; what lies outside is counted at both ends.
    """
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
