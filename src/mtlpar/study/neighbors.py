"""How long neighbouring nodes take for a sum between them, with nothing else on the network.

A slow node delays the sums of all ranks alike. Between pairs of nodes it is the one whose sums
with both its neighbours are slow.
"""

from __future__ import annotations

import statistics
import time
from typing import Final

import torch
import torch.distributed as dist

from mtlpar.core.collective import collective
from mtlpar.parallel.agree import gather
from mtlpar.parallel.device import wait_for
from mtlpar.parallel.ranks import RankContext

_NUMBERS: Final = 2**20
_SUMS: Final = 5


@collective
def pair_seconds(context: RankContext, *, ranks_per_node: int) -> list[float]:
    """Time sums of 4 MiB between the first ranks of neighbouring nodes; all ranks call this.

    Args:
        context: Who this process is.
        ranks_per_node: Ranks of a node; nodes hold consecutive ranks.

    Returns:
        Median seconds of each node with the next, the last with the first; empty with fewer than
        three nodes, of which none can be told apart from its neighbours.
    """
    leaders = list(range(0, context.world_size, ranks_per_node))
    if len(leaders) < 3:
        return []
    pairs = [(leader, leaders[(node + 1) % len(leaders)]) for node, leader in enumerate(leaders)]
    groups = [dist.new_group(sorted(pair)) for pair in pairs]
    mine = {}
    # Neighbouring pairs share a node: every other pair at a time, and the last by itself.
    for turn in (0, 1, 2):
        dist.barrier()
        for number, (pair, group) in enumerate(zip(pairs, groups, strict=True)):
            alone = number == len(pairs) - 1 and len(pairs) % 2 == 1
            if turn == (2 if alone else number % 2) and context.rank in pair:
                mine[number] = _median_seconds(group, context)
    everyone = gather(mine)
    return [
        max(found[number] for found in everyone if number in found) for number in range(len(pairs))
    ]


@collective
def _median_seconds(group: dist.ProcessGroup, context: RankContext) -> float:
    numbers = torch.zeros(_NUMBERS, device=context.device)
    seconds = []
    for _ in range(_SUMS + 1):
        started = time.perf_counter()
        dist.all_reduce(numbers, group=group)
        wait_for(context.device)
        seconds.append(time.perf_counter() - started)
    # The first one connects, and waits for the other node.
    return statistics.median(seconds[1:])
