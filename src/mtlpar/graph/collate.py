"""Turns columns into the tensors that a model reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mtlpar.core.structures import StructureBatch
from mtlpar.graph.batch import GraphBatch
from mtlpar.graph.binned import DeviceEdges, binned_neighbor_list
from mtlpar.graph.neighbors import neighbor_list
from mtlpar.graph.settings import GraphSettings

CPU = torch.device("cpu")


def collate(
    batch: StructureBatch,
    settings: GraphSettings,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> GraphBatch:
    """Build a batch straight from columns, with its neighbour graph.

    Args:
        batch: S structures with A atoms.
        settings: The neighbour graph.
        dtype: Floating type of the tensors.
        device: Where the neighbours are searched and the tensors lie.
    """
    edges = edges_on(device, batch, settings)
    owner = np.repeat(np.arange(len(batch), dtype=np.int64), batch.num_atoms)

    def put(values: npt.NDArray[Any], dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.from_numpy(values).to(device, dtype)

    return GraphBatch(
        z=put(batch.atomic_numbers),
        pos=put(batch.positions, dtype),
        edge_index=torch.stack([edges.sender, edges.receiver]),
        edge_shift=edges.shift.T.to(dtype).contiguous(),
        batch=put(owner),
        ptr=put(batch.offsets),
        num_atoms=put(batch.num_atoms),
        cell=put(batch.cell, dtype),
        pbc=put(batch.pbc, torch.bool),
        charge=put(batch.charge),
        spin=put(batch.spin),
    )


def edges_on(device: torch.device, batch: StructureBatch, settings: GraphSettings) -> DeviceEdges:
    """All pairs of atoms closer than the cutoff, found where they are wanted.

    Args:
        device: A CPU, or an accelerator, which needs no list from the CPU.
        batch: The structures.
        settings: The neighbour graph.

    Raises:
        ValueError: If a periodic structure has a cell that does not span its directions.
    """
    if device.type != "cpu":
        return binned_neighbor_list(batch, settings, device)
    edges = neighbor_list(batch, settings)
    return DeviceEdges(
        torch.from_numpy(edges.receiver),
        torch.from_numpy(edges.sender),
        torch.from_numpy(edges.shift).T,
    )
