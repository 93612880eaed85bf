"""Neighbour lists of many structures at once, with periodic images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from vesin import NeighborList

from mtlpar.core.structures import StructureBatch
from mtlpar.graph.settings import GraphSettings

IndexArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Edges:
    """Directed edges of a batch, sorted by receiver.

    The vector from receiver to sender is ``positions[sender] + shift - positions[receiver]``.

    Attributes:
        receiver: Atom that receives the message, (E,).
        sender: Atom that sends it, (E,).
        shift: Translation of the sender's periodic image in Å, (E, 3) float64.
    """

    receiver: IndexArray
    sender: IndexArray
    shift: FloatArray


def neighbor_list(batch: StructureBatch, settings: GraphSettings) -> Edges:
    """Find all pairs of atoms closer than the cutoff, images included.

    An atom sees its own images where the cell is small. Each structure is searched with its own
    periodicity; nothing falls back to open boundaries.

    Args:
        batch: The structures.
        settings: Cutoff in Å and optional limit of neighbours per atom.

    Raises:
        ValueError: If a periodic structure has a cell that does not span its directions.
    """
    search = NeighborList(cutoff=settings.cutoff_angstrom, full_list=True, sorted=True, n_threads=1)
    offsets = batch.offsets
    receivers, senders, shifts = [], [], []
    for index in range(len(batch)):
        first, last = offsets[index], offsets[index + 1]
        cell = batch.cell[index].astype(np.float64)
        positions = batch.positions[first:last].astype(np.float64)
        pbc = batch.pbc[index].astype(bool)
        try:
            i, j, image = search.compute(positions, cell, pbc, "ijS")
        except RuntimeError as error:
            raise ValueError(
                f"no neighbour list for structure {batch.structure_id[index]:016x} with "
                f"pbc {pbc.tolist()} and cell {cell.tolist()}: {error}"
            ) from error
        shift = image @ cell
        i, j = i.astype(np.int64), j.astype(np.int64)
        if settings.max_neighbors is not None:
            distance = np.linalg.norm(positions[j] + shift - positions[i], axis=1)
            kept = nearest(i, distance, settings.max_neighbors)
            i, j, shift = i[kept], j[kept], shift[kept]
        receivers.append(i + first)
        senders.append(j + first)
        shifts.append(shift)
    return Edges(
        np.concatenate(receivers) if receivers else np.zeros(0, np.int64),
        np.concatenate(senders) if senders else np.zeros(0, np.int64),
        np.concatenate(shifts) if shifts else np.zeros((0, 3)),
    )


def nearest(receiver: IndexArray, distance: FloatArray, count: int) -> IndexArray:
    """Positions of the ``count`` shortest edges of each receiver, receivers in order.

    Args:
        receiver: (E,) receiver of each edge.
        distance: (E,) lengths of the edges.
        count: Edges to keep per receiver.
    """
    order = np.lexsort((distance, receiver))
    ordered = receiver[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    run = np.diff(np.append(starts, len(ordered)))
    rank = np.arange(len(ordered)) - np.repeat(starts, run)
    return order[rank < count] if len(order) else order
