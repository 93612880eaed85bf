"""Neighbours of one structure that moves: searched once, measured at every step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mtlpar.core.structures import StructureBatch
from mtlpar.graph.neighbors import nearest, neighbor_list
from mtlpar.graph.settings import GraphSettings

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]

SKIN_ANGSTROM = 0.5
# Less than half of the skin, so that rounding cannot bring in a pair that is no candidate.
_FARTHEST_MOVE = 0.499 * SKIN_ANGSTROM


class MeasuredEdges(NamedTuple):
    """Edges of one structure, in the order of `mtlpar.graph.neighbors.Edges`.

    Attributes:
        receiver: Atom that receives the message, (E,).
        sender: Atom that sends it, (E,).
        vector: From receiver to the sender's image in Å, (3, E).
    """

    receiver: IndexArray
    sender: IndexArray
    vector: FloatArray


class SkinList:
    """All pairs within cutoff and skin of where the atoms were; the edges among them are exact.

    Two atoms that each moved by less than half the skin approached each other by less than the
    skin (Verlet, Phys. Rev. 159, 98, 1967): whoever is a neighbour now was a candidate then. Those
    are measured with the arithmetic of `mtlpar.graph.pairs.measure`, so the edges are those of a
    fresh list, bit by bit.
    """

    def __init__(self, structure: StructureBatch, settings: GraphSettings) -> None:
        """Search the candidates.

        Args:
            structure: One structure.
            settings: The neighbour graph.

        Raises:
            ValueError: If its cell does not span its periodic directions.
        """
        wide = settings.model_copy(
            update={
                "cutoff_angstrom": settings.cutoff_angstrom + SKIN_ANGSTROM,
                "max_neighbors": None,
            }
        )
        candidates = neighbor_list(structure, wide)
        self._settings = settings
        self._positions = structure.positions.astype(np.float64)
        self._receiver, self._sender = candidates.receiver, candidates.sender
        self._shift = np.ascontiguousarray(candidates.shift.T)

    def still_holds(self, positions: FloatArray) -> bool:
        """Whether no atom has moved so far that a neighbour could be missing; NaN is far."""
        moved = positions - self._positions
        return bool(np.einsum("ax,ax->a", moved, moved).max() < _FARTHEST_MOVE**2)

    def edges(self, positions: FloatArray) -> MeasuredEdges:
        """Edges at these positions, (A, 3) in Å, for which the list must still hold."""
        coordinates = np.ascontiguousarray(positions.T)
        vector = coordinates.take(self._sender, axis=1)
        vector += self._shift
        vector -= coordinates.take(self._receiver, axis=1)
        squared = vector[0] * vector[0]
        squared += vector[1] * vector[1]
        squared += vector[2] * vector[2]
        kept = np.flatnonzero(squared < self._settings.cutoff_angstrom**2)
        limit = self._settings.max_neighbors
        if limit is not None:
            kept = kept[nearest(self._receiver.take(kept), squared.take(kept), limit)]
        return MeasuredEdges(
            self._receiver.take(kept), self._sender.take(kept), vector.take(kept, axis=1)
        )
