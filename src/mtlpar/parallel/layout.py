"""`ParallelLayout`: which ranks own which branch, and how many share an encoder. Only here."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mtlpar.core.wording import counted
from mtlpar.parallel.deal import deal


@dataclass(frozen=True)
class ParallelLayout:
    """A map from branches to the ranks that own them.

    MTL-base lets every rank own every branch. MTL-par gives each branch ranks of its own; with
    fewer ranks than branches a rank owns several. One process owns all. Everything else in the
    project asks this class and does no rank arithmetic.

    Attributes:
        world_size: Number of ranks.
        owners: Ranks of each branch, ascending, by name and in the order of the model.
        encoder_shards: Consecutive ranks that hold one copy of the encoder together. They need
            not own the same branches.
    """

    world_size: int
    owners: Mapping[str, tuple[int, ...]]
    encoder_shards: int = 1

    def __post_init__(self) -> None:
        if self.world_size % self.encoder_shards:
            raise ValueError(
                f"train.encoder_shards = {self.encoder_shards} ranks are to hold one copy of the "
                f"encoder, and {counted(self.world_size, 'rank')} cannot be divided into "
                "such groups; choose a divisor, or 1 for a copy on every rank"
            )
        # Groups of many thousand ranks are looked at once, however many branches they own.
        for ranks, branch in {ranks: branch for branch, ranks in self.owners.items()}.items():
            if not ranks:
                raise ValueError(f"branch {branch!r} has no rank; every branch needs an owner")
            if sorted(set(ranks)) != list(ranks):
                raise ValueError(f"ranks of branch {branch!r} must be ascending, got {ranks}")
        used = set().union(*set(self.owners.values()))
        if used != set(range(self.world_size)):
            raise ValueError(
                f"ranks {sorted(used)} own branches, expected all of 0..{self.world_size - 1}"
            )

    @classmethod
    def build(
        cls,
        kind: Literal["mtl-par", "mtl-base"],
        *,
        cost: Mapping[str, float],
        world_size: int,
        encoder_shards: int = 1,
    ) -> ParallelLayout:
        """Lay out branches on ranks.

        Args:
            kind: ``mtl-base`` or ``mtl-par``.
            cost: Relative work of each branch, for instance its training edges.
            world_size: Number of ranks.
            encoder_shards: Ranks that hold one copy of the encoder together.

        Raises:
            ValueError: If the ranks do not divide into such groups.
        """
        if kind == "mtl-base":
            owners = dict.fromkeys(cost, tuple(range(world_size)))
        elif world_size >= len(cost):
            owners = _groups_of_ranks(cost, world_size)
        else:
            owners = _several_per_rank(cost, world_size)
        return cls(world_size, owners, encoder_shards)

    @property
    def is_even(self) -> bool:
        """Whether branches have disjoint groups of equal size: a rectangular mesh."""
        sizes = {len(ranks) for ranks in self.owners.values()}
        return len(sizes) == 1 and sizes.pop() * len(self.owners) == self.world_size

    def branches_of(self, rank: int) -> tuple[str, ...]:
        """Branches that a rank owns, in the order of the model."""
        return tuple(branch for branch, ranks in self.owners.items() if rank in ranks)

    def share(self, branch: str, rank: int, items: int) -> slice:
        """Which of ``items`` of a branch's work a rank takes.

        The owners' slices are disjoint and cover everything; a rank may get nothing.
        """
        ranks = self.owners[branch]
        position = ranks.index(rank)
        return slice(position * items // len(ranks), (position + 1) * items // len(ranks))

    def deal(self, branch: str, rank: int, work: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Which items of a branch a rank takes, such that its owners have about the same work.

        Args:
            branch: The branch.
            rank: One of its owners.
            work: Work of each item in any unit, (N,); the same on all owners.

        Returns:
            Ascending numbers of items. The owners' are disjoint and cover everything; a rank may
            get nothing.
        """
        ranks = self.owners[branch]
        return np.flatnonzero(deal(work, len(ranks)) == ranks.index(rank))

    def describe(self) -> str:
        """One line for people, for instance ``ani1x: 0-1, qm7x: 2``."""
        owners = ", ".join(f"{branch}: {_ranges(ranks)}" for branch, ranks in self.owners.items())
        shards = f"; each encoder on {self.encoder_shards} ranks" if self.encoder_shards > 1 else ""
        return owners + shards


def _groups_of_ranks(cost: Mapping[str, float], world_size: int) -> dict[str, tuple[int, ...]]:
    """Disjoint groups: each branch one rank, the rest one by one to whoever is busiest."""
    sizes = [1] * len(cost)
    # Largest share first; among equals the first branch.
    shares = [(-one, index) for index, one in enumerate(cost.values())]
    heapq.heapify(shares)
    costs = list(cost.values())
    for _ in range(world_size - len(cost)):
        _, busiest = shares[0]
        sizes[busiest] += 1
        heapq.heapreplace(shares, (-(costs[busiest] / sizes[busiest]), busiest))
    owners, first = {}, 0
    for branch, size in zip(cost, sizes, strict=True):
        owners[branch] = tuple(range(first, first + size))
        first += size
    return owners


def _several_per_rank(cost: Mapping[str, float], world_size: int) -> dict[str, tuple[int, ...]]:
    """Each branch one rank: the most expensive first, always to the least loaded rank."""
    load = [0.0] * world_size
    rank_of: dict[str, int] = {}
    for count, branch in enumerate(sorted(cost, key=lambda name: -cost[name])):
        # The first branches go to empty ranks even where their cost is zero.
        rank = count if count < world_size else load.index(min(load))
        load[rank] += cost[branch]
        rank_of[branch] = rank
    return {branch: (rank_of[branch],) for branch in cost}


def _ranges(ranks: Sequence[int]) -> str:
    contiguous = len(ranks) > 1 and ranks[-1] - ranks[0] == len(ranks) - 1
    return f"{ranks[0]}-{ranks[-1]}" if contiguous else ",".join(map(str, ranks))
