"""How good the uncertainties of a branch are on a test set."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, Final

import numpy as np

from mtlpar.evaluate.errors import Predicted
from mtlpar.model.uncertainty import (
    COVERAGE,
    BranchUncertainty,
    FloatArray,
    pairs_never_seen,
    share_below,
)
from mtlpar.store.dataset import PackedDataset

LEVELS: Final = tuple(level / 20 for level in range(1, 20))
"""Shares of a normal distribution whose intervals are counted; `COVERAGE` is one of them."""


def uncertainty_quality(
    known: BranchUncertainty, source: str, dataset: PackedDataset, predicted: Predicted
) -> dict[str, Any] | None:
    """Compare uncertainties with the errors of a test set; None if it has no energies.

    Args:
        known: What the branch measured, of this source too.
        source: The source.
        dataset: Its test set, S structures.
        predicted: Predictions with features.

    Returns:
        ``num_structures`` with energies; ``levels`` and ``observed``, the shares of errors within
        the interval of each; ``coverage_90`` among them; ``mean_ev_per_atom``;
        ``rank_correlation`` of uncertainty and size of the error; ``num_pair_never_seen``
        structures with two elements that no training structure of the branch has together; and how
        well the uncertainty tells apart (area under the receiver operating characteristic, 0.5 is
        chance): ``auroc_pair_never_seen`` these from the others, and ``auroc_group_never_seen`` the
        test set from training structures. None where there is nothing to tell apart.
    """
    assert predicted.last_features is not None
    rows = np.flatnonzero(dataset.structures.has("energy"))
    if not len(rows):
        return None
    features = predicted.last_features[rows]
    sigma = known.energy_ev_per_atom(features)
    error = np.abs(predicted.energy_per_atom[rows] - dataset.target_ev_per_atom[rows])
    half_widths = [NormalDist().inv_cdf((1 + level) / 2) for level in LEVELS]
    observed = [float(np.mean(error <= width * sigma)) for width in half_widths]
    is_new = pairs_never_seen(dataset.structures.take(rows), known.together)
    seen = known.sources[source].seen.cpu().double().numpy()
    of_groups = None
    if not dataset.header.leaky:
        of_groups = float(np.mean(share_below(known.leverage(features), seen)))
    return {
        "num_structures": len(rows),
        "levels": list(LEVELS),
        "observed": observed,
        "coverage_90": observed[LEVELS.index(COVERAGE)],
        "mean_ev_per_atom": float(sigma.mean()),
        "rank_correlation": rank_correlation(sigma, error),
        "auroc_group_never_seen": of_groups,
        "num_pair_never_seen": int(is_new.sum()),
        "auroc_pair_never_seen": auroc(sigma[is_new], sigma[~is_new]),
    }


def auroc(positive: FloatArray, negative: FloatArray) -> float | None:
    """Probability that one of the first is larger than one of the second; None if one is empty."""
    if not (len(positive) and len(negative)):
        return None
    ranks = _ranks(np.concatenate([positive, negative]))
    above = ranks[: len(positive)].sum() - len(positive) * (len(positive) - 1) / 2
    return float(above / (len(positive) * len(negative)))


def rank_correlation(one: FloatArray, other: FloatArray) -> float | None:
    """Spearman's correlation of two columns (S,); None where one does not vary."""
    ranks = np.array([_ranks(one), _ranks(other)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: FloatArray) -> FloatArray:
    """Ranks from zero; equal numbers share the mean of theirs."""
    _, member, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[member])
