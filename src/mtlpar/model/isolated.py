"""Atoms without neighbours: where energies have their zero if `head.isolated_atoms` is reference.

The energy that a branch gives an atom i of element Z_i is then that of its features less that of an
atom of its element alone, E_i = e(h_i) - e(h(Z_i)). Both go through the same weights, in training
too. As the last neighbour leaves the cutoff, h_i becomes h(Z_i) as smoothly as messages fade, and
E_i becomes zero: there is nothing to switch off. Forces are those of e(h_i): the rest is constant.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mtlpar.core.fields import MAX_ATOMIC_NUMBER
from mtlpar.graph.batch import GraphBatch

_NUM_KINDS = MAX_ATOMIC_NUMBER + 1


class IsolatedAtoms(NamedTuple):
    """What a branch says of an atom of each element that has no neighbours, by atomic number.

    Attributes:
        energies: Energies in eV, (119,).
        last: What they are linear in, see `Branch.last_features`, (119, H).
    """

    energies: Tensor
    last: Tensor


def with_isolated(batch: GraphBatch) -> GraphBatch:
    """A batch with an atom of each element behind its own, (A + 119,), which have no edges.

    Only for encoders: nothing else of the batch counts them. All elements, whatever is in the
    batch: sizes that depend on its numbers would make a GPU wait.
    """
    kinds = torch.arange(_NUM_KINDS, device=batch.z.device)
    return replace(
        batch,
        z=torch.cat([batch.z, kinds]),
        batch=torch.cat([batch.batch, torch.zeros_like(kinds)]),
    )


def only_isolated(device: torch.device) -> GraphBatch:
    """An atom of each element in one structure without edges."""
    kinds = torch.arange(_NUM_KINDS, device=device)
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    count = torch.tensor([_NUM_KINDS], device=device)
    return GraphBatch(
        z=kinds,
        pos=torch.zeros(_NUM_KINDS, 3, device=device),
        edge_index=torch.zeros(2, 0, dtype=torch.int64, device=device),
        edge_shift=torch.zeros(0, 3, device=device),
        batch=torch.zeros_like(kinds),
        ptr=torch.cat([zero, count]),
        num_atoms=count,
        cell=torch.zeros(1, 3, 3, device=device),
        pbc=torch.zeros(1, 3, dtype=torch.bool, device=device),
        charge=zero,
        spin=zero,
    )
