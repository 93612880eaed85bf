"""Which structures make up each step: a plan that knows nothing about ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mtlpar.core.hashing import derive_seed
from mtlpar.train.order import EpochOrder

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochPlan:
    """Deals the samples of every dataset evenly over the steps of an epoch.

    The dataset that gives most samples fixes the number of steps; the others are dealt over just
    as many, so every step holds a share of every dataset. By default each structure is
    seen exactly once per epoch.

    Attributes:
        num_structures: Training structures of each dataset.
        batch_structures: Samples per step of the dataset that gives most.
        seed: The run's seed.
        temperature: A dataset of N structures gives N_max (N / N_max)^(1 / temperature) samples.
        passes: Samples per structure of a dataset, instead of what the temperature gives.
        blocks: Structures of each block of a dataset's pack; one block where not given.
        window: Structures of a dataset that are shuffled together, see `EpochOrder`.
    """

    num_structures: Mapping[str, int]
    batch_structures: int
    seed: int
    temperature: float = 1.0
    passes: Mapping[str, float] = field(default_factory=dict)
    blocks: Mapping[str, Sequence[int]] = field(default_factory=dict)
    window: int = 1_000_000

    @cached_property
    def num_samples(self) -> dict[str, int]:
        """Samples that each dataset gives per epoch, at least one."""
        largest = max(self.num_structures.values())
        samples = {}
        for dataset, count in self.num_structures.items():
            by_temperature = largest * (count / largest) ** (1 / self.temperature)
            wanted = count * self.passes[dataset] if dataset in self.passes else by_temperature
            samples[dataset] = max(1, round(wanted))
        return samples

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return math.ceil(max(self.num_samples.values()) / self.batch_structures)

    def order(self, dataset: str, epoch: int) -> EpochOrder:
        """Structures that an epoch visits, in order."""
        blocks = self.blocks.get(dataset, [self.num_structures[dataset]])
        return EpochOrder(
            np.concatenate([[0], np.cumsum(blocks, dtype=np.int64)]),
            self.num_samples[dataset],
            window=self.window,
            seed=derive_seed(self.seed, "epoch", epoch, dataset),
        )

    def bounds(self, dataset: str, step: int) -> tuple[int, int]:
        """Which stretch of that order one step takes."""
        samples, steps = self.num_samples[dataset], self.steps
        return step * samples // steps, (step + 1) * samples // steps

    def step_of(self, dataset: str, position: int) -> int:
        """The step that takes one position of that order."""
        return ((position + 1) * self.steps - 1) // self.num_samples[dataset]
