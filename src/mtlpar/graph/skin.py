"""Neighbours of one structure that moves: searched once, measured at every step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtlpar.core.structures import StructureBatch
from mtlpar.graph.binned import nearest_on_device
from mtlpar.graph.collate import edges_on
from mtlpar.graph.settings import GraphSettings

FloatArray = npt.NDArray[np.float64]

SKIN_ANGSTROM = 0.5
# Less than half of the skin, so that rounding cannot bring in a pair that is no candidate.
_FARTHEST_MOVE = 0.499 * SKIN_ANGSTROM


class MeasuredEdges(NamedTuple):
    """Edges of one structure, in the order of `mtlpar.graph.neighbors.Edges`.

    Attributes:
        edge_index: Sender and receiver of each edge, (2, E).
        vector: From receiver to the sender's image in Å, (3, E) float64.
    """

    edge_index: Tensor
    vector: Tensor


class SkinList:
    """All pairs within cutoff and skin of where the atoms were; the edges among them are exact.

    Two atoms that each moved by less than half the skin approached each other by less than the
    skin (Verlet, Phys. Rev. 159, 98, 1967): whoever is a neighbour now was a candidate then. Those
    are measured with the arithmetic of `mtlpar.graph.pairs.measure`, so the edges are those of a
    fresh list, bit by bit.
    """

    def __init__(
        self, structure: StructureBatch, settings: GraphSettings, device: torch.device
    ) -> None:
        """Search the candidates.

        Args:
            structure: One structure.
            settings: The neighbour graph.
            device: Where they are searched, kept and measured.

        Raises:
            ValueError: If its cell does not span its periodic directions.
        """
        wide = settings.model_copy(
            update={
                "cutoff_angstrom": settings.cutoff_angstrom + SKIN_ANGSTROM,
                "max_neighbors": None,
            }
        )
        candidates = edges_on(device, structure, wide)
        self._settings = settings
        self._positions = structure.positions.astype(np.float64)
        self._edge_index = torch.stack([candidates.sender, candidates.receiver])
        self._shift = candidates.shift.contiguous()

    def still_holds(self, positions: FloatArray) -> bool:
        """Whether no atom has moved so far that a neighbour could be missing; NaN is far."""
        moved = positions - self._positions
        return bool(np.einsum("ax,ax->a", moved, moved).max() < _FARTHEST_MOVE**2)

    def edges(self, positions: FloatArray) -> MeasuredEdges:
        """Edges at these positions, (A, 3) in Å, for which the list must still hold."""
        coordinates = torch.from_numpy(positions.T.copy()).to(self._shift.device)
        # Not `index_select`, which takes twice as long to take columns on a CPU.
        sender, receiver = self._edge_index[:, None].expand(-1, 3, -1)
        vector = coordinates.gather(1, sender)
        vector += self._shift
        vector -= coordinates.gather(1, receiver)
        first, second, third = (vector * vector).unbind()
        squared = first + second + third
        kept = torch.nonzero(squared < self._settings.cutoff_angstrom**2)[:, 0]
        limit = self._settings.max_neighbors
        if limit is not None:
            kept = kept[nearest_on_device(receiver[0, kept], squared[kept], limit)]
        return MeasuredEdges(
            self._edge_index.gather(1, kept.expand(2, -1)), vector.gather(1, kept.expand(3, -1))
        )
