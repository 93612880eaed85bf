"""Time of collectives by the alpha-beta model, over nodes and the ranks inside them.

Thakur, Rabenseifner and Gropp 2005 (doi:10.1177/1094342005051521): on p ranks a ring
reduce-scatter or all-gather of B bytes takes (p - 1) alpha + (p - 1) / p B / bandwidth, and a ring
all-reduce both. A tree all-reduce takes 2 log2(p) (alpha + B / (k bandwidth)) cut into k chunks,
which for large messages tends to 2 log2(p) alpha + 2 B / bandwidth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mtlpar.plan.machine import Link, Machine


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that reduce together, laid out node by node.

    Attributes:
        nodes: Nodes they lie on.
        ranks: Ranks on each of them.
    """

    nodes: int
    ranks: int

    @classmethod
    def of(cls, size: int, machine: Machine) -> Group:
        """A group of consecutive ranks."""
        return cls(machine.nodes(size), machine.ranks_of_node(size))


def all_reduce_seconds(group: Group, size_bytes: float, machine: Machine) -> float:
    """Hierarchical all-reduce: inside the node, between nodes, inside the node.

    The ranks of a node hold a part each while the nodes exchange, and share the node's network.
    Between nodes the better of ring and tree is taken.
    """
    inside = 2 * scatter_seconds(group, size_bytes, machine.intra_node)
    if group.nodes == 1:
        return inside
    part = size_bytes / group.ranks
    share = 1 / machine.ranks_per_node
    link, nodes = machine.inter_node, group.nodes
    ring = link.seconds(2 * (nodes - 1), 2 * (nodes - 1) / nodes * part, share=share)
    tree = link.seconds(2 * math.ceil(math.log2(nodes)), 2 * part, share=share)
    return inside + min(ring, tree)


def scatter_seconds(group: Group, size_bytes: float, link: Link) -> float:
    """Ring reduce-scatter, or all-gather, among a group's ranks of one node."""
    others = group.ranks - 1
    return link.seconds(others, others / group.ranks * size_bytes)
