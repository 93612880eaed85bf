"""How much work each structure is, known on every rank that shares its source.

Every rank counts the edges of an equal part of all structures, once before the first step, and the
counts are exchanged: a training looks for the neighbours of every structure in every epoch anyway.
Few ranks would count for long, and need it least: in large datasets theirs are taken from atoms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.collective import collective
from mtlpar.core.structures import StructureBatch
from mtlpar.graph.neighbors import count_edges
from mtlpar.graph.settings import GraphSettings
from mtlpar.parallel.agree import failing_together, gather
from mtlpar.plan.workload import EDGES_OF_ATOM
from mtlpar.store.pack import Pack
from mtlpar.train.loader import prefetch

WorkArray = npt.NDArray[np.uint32]

WORK_BYTES: Final = 4
"""Memory that a rank needs for each structure of its sources that other ranks share."""

_PIECE_STRUCTURES: Final = 4096
_SAMPLE_STRUCTURES: Final = 64
# Structures that a rank counts at most: half a minute for crystals of thirty atoms.
_MOST_COUNTED: Final = 100_000


def edges_per_atom(pack: Pack, graph: GraphSettings) -> float:
    """Mean number of neighbours in a pack, from its first structures: all are shuffled.

    Raises:
        ValueError: If the pack is damaged.
    """
    some = pack.first(_SAMPLE_STRUCTURES)
    return float(count_edges(some, graph).sum() / some.total_atoms)


def work_of(batch: StructureBatch, graph: GraphSettings) -> WorkArray:
    """Work of each structure in units of an edge, (S,)."""
    return (count_edges(batch, graph) + EDGES_OF_ATOM * batch.num_atoms).astype(np.uint32)


@collective
def gather_work(
    packs: Mapping[str, Pack], graph: GraphSettings, *, rank: int, world_size: int
) -> dict[str, WorkArray]:
    """Work of all structures of some packs.

    Args:
        packs: The packs, the same on all ranks.
        graph: Neighbour graph.
        rank: This rank.
        world_size: Number of ranks.

    Returns:
        By source, (N,) in the order of the pack.

    Raises:
        AgreedError: On every rank, if one finds its part of a pack damaged.
    """
    work = {}
    for source, pack in packs.items():
        if len(pack) > _MOST_COUNTED * world_size:
            of_atom = edges_per_atom(pack, graph) + EDGES_OF_ATOM
            work[source] = (np.diff(pack.offsets) * of_atom).astype(np.uint32)
            continue
        first, last = (part * len(pack) // world_size for part in (rank, rank + 1))
        with failing_together():
            pieces = (batch for _, batch in pack.part(first, last, size=_PIECE_STRUCTURES))
            mine = list(prefetch(lambda batch: work_of(batch, graph), pieces))
        parts = gather(np.concatenate([*mine, np.zeros(0, np.uint32)]))
        work[source] = np.concatenate(parts)
    return work
