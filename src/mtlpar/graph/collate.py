"""Turns columns into the tensors that a model reads."""

from __future__ import annotations

import numpy as np
import torch

from mtlpar.core.structures import StructureBatch
from mtlpar.graph.batch import GraphBatch
from mtlpar.graph.neighbors import neighbor_list
from mtlpar.graph.settings import GraphSettings


def collate(
    batch: StructureBatch, settings: GraphSettings, *, dtype: torch.dtype = torch.float32
) -> GraphBatch:
    """Build a batch straight from columns, with its neighbour graph.

    Args:
        batch: S structures with A atoms.
        settings: The neighbour graph.
        dtype: Floating type of the tensors.
    """
    edges = neighbor_list(batch, settings)
    owner = np.repeat(np.arange(len(batch), dtype=np.int64), batch.num_atoms)
    return GraphBatch(
        z=torch.from_numpy(batch.atomic_numbers.astype(np.int64)),
        pos=torch.from_numpy(batch.positions).to(dtype),
        edge_index=torch.from_numpy(np.stack([edges.sender, edges.receiver])),
        edge_shift=torch.from_numpy(edges.shift).to(dtype),
        batch=torch.from_numpy(owner),
        ptr=torch.from_numpy(batch.offsets),
        num_atoms=torch.from_numpy(batch.num_atoms.astype(np.int64)),
        cell=torch.from_numpy(batch.cell).to(dtype),
        pbc=torch.from_numpy(batch.pbc.astype(bool)),
        charge=torch.from_numpy(batch.charge.astype(np.int64)),
        spin=torch.from_numpy(batch.spin.astype(np.int64)),
    )
