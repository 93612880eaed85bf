"""Which structures make up each step: a plan that knows nothing about ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtlpar.core.hashing import derive_seed

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochPlan:
    """Deals every dataset evenly over the steps of an epoch.

    The largest dataset fixes the number of steps; the others are dealt over just as many, so each
    structure is seen exactly once per epoch and every step holds a share of every dataset.

    Attributes:
        num_structures: Training structures of each dataset.
        batch_structures: Structures per step of the largest dataset.
        seed: The run's seed.
    """

    num_structures: Mapping[str, int]
    batch_structures: int
    seed: int

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return math.ceil(max(self.num_structures.values()) / self.batch_structures)

    def order(self, dataset: str, epoch: int) -> IndexArray:
        """Order in which an epoch visits a dataset, (N,)."""
        rng = np.random.default_rng(derive_seed(self.seed, "epoch", epoch, dataset))
        return rng.permutation(self.num_structures[dataset])

    def bounds(self, dataset: str, step: int) -> tuple[int, int]:
        """Which stretch of that order one step takes."""
        count, steps = self.num_structures[dataset], self.steps
        return step * count // steps, (step + 1) * count // steps
