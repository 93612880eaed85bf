"""A batch of structures as tensors, under the names that PyTorch Geometric has for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlpar.core.quiet import without_jit_warnings

if TYPE_CHECKING:
    from torch_geometric.data import Batch


@dataclass(frozen=True, slots=True, eq=False)
class GraphBatch:
    """S structures with A atoms and E edges, their atoms one after another.

    Attributes:
        z: (A,) atomic numbers.
        pos: (A, 3) positions in Å.
        edge_index: (2, E) sender and receiver of each edge, sorted by receiver.
        edge_shift: (E, 3) translation of the sender's image in Å.
        batch: (A,) the structure of each atom.
        ptr: (S + 1,) atoms before each structure, and all of them.
        num_atoms: (S,) atoms of each structure.
        cell: (S, 3, 3) lattice vectors in rows, in Å; zero along open directions.
        pbc: (S, 3) whether the structure repeats along each of them.
        charge: (S,) total charge in e.
        spin: (S,) multiplicity, zero where it is not stated.
    """

    z: Tensor
    pos: Tensor
    edge_index: Tensor
    edge_shift: Tensor
    batch: Tensor
    ptr: Tensor
    num_atoms: Tensor
    cell: Tensor
    pbc: Tensor
    charge: Tensor
    spin: Tensor

    @property
    def num_graphs(self) -> int:
        """S, the number of structures."""
        return len(self.num_atoms)

    @property
    def num_nodes(self) -> int:
        """A, the number of atoms."""
        return len(self.z)

    @property
    def num_edges(self) -> int:
        """E, the number of edges."""
        return self.edge_index.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def apply(self, change: Callable[[Tensor], Tensor]) -> GraphBatch:
        """A batch of what a function makes of each tensor."""
        return GraphBatch(**{name: change(tensor) for name, tensor in self.tensors().items()})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> GraphBatch:
        """The same batch on a device.

        Args:
            device: Where its tensors are to lie.
            non_blocking: Do not wait for copies out of page-locked memory.
        """
        return self.apply(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> GraphBatch:
        """Copy into page-locked memory, from where copies to a device need no waiting."""
        return self.apply(Tensor.pin_memory)

    def to_pyg(self) -> Batch:
        """The same tensors as a PyTorch Geometric `Batch`, for its models and transforms."""
        # Importing it takes longer than importing torch, and nothing else here needs it.
        with without_jit_warnings():
            from torch_geometric.data import Batch

        return Batch(**self.tensors())
