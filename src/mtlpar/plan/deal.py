"""What the deal of a batch to ranks leaves uneven: the deal itself, on made-up sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mtlpar.parallel.deal import deal

# Of more structures a rank the deal leaves less: this much is as good as nothing.
_MOST_PER_RANK: Final = 256
# Beyond so many structures fewer ranks are asked: what is left depends on structures a rank, and on
# ranks only where each has few.
_MOST_STRUCTURES: Final = 2**20


class Part(NamedTuple):
    """Structures of one dataset in a batch.

    Attributes:
        per_rank: Structures for each rank, in the mean.
        work: Mean work of a structure, in edges.
        variation: Standard deviation of the work over its mean; it is lognormal.
    """

    per_rank: float
    work: float
    variation: float


@cache
def excess_by_work(parts: tuple[Part, ...], ranks: int) -> float:
    """By how much the largest share exceeds the mean if structures are dealt by their work.

    Args:
        parts: What is dealt together.
        ranks: Ranks that share it.

    Returns:
        Relative excess; zero for one rank.
    """
    per_rank = min(_MOST_PER_RANK, sum(part.per_rank for part in parts))
    ranks = min(ranks, max(1, int(_MOST_STRUCTURES / max(1.0, per_rank))))
    work = _made_up_work(parts, ranks)
    if ranks == 1 or len(work) == 0:
        return 0.0
    load = np.bincount(deal(work, ranks), work, minlength=ranks)
    return float(load.max() / load.mean()) - 1


def _made_up_work(parts: Sequence[Part], ranks: int) -> npt.NDArray[np.int64]:
    """Work of every structure of a batch, in edges."""
    rng = np.random.default_rng(0)
    scale = min(1.0, _MOST_PER_RANK / max(1.0, sum(part.per_rank for part in parts)))
    work = [np.zeros(0)]
    for part in parts:
        sigma = math.sqrt(math.log1p(part.variation**2))
        sizes = rng.lognormal(-(sigma**2) / 2, sigma, round(part.per_rank * scale * ranks))
        work.append(np.maximum(1, np.rint(part.work * sizes)))
    return np.concatenate(work).astype(np.int64)
