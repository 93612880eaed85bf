"""Pairs of many small structures at once: every pair is looked at, none in a Python loop.

The rows of structures of any size are laid one after another, so all of them share each array
operation, and the pairs come out sorted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mtlpar.core.ragged import ragged_arange
from mtlpar.graph.cells import Cells
from mtlpar.graph.pairs import Pairs, measure

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]

# The distance in a cell's own frame may differ from the measured one by its rounding.
_MARGIN = 1 + 1e-6


def open_pairs(
    positions: FloatArray, first_atom: IndexArray, num_atoms: IndexArray, cutoff: float
) -> Pairs:
    """Pairs of structures without any periodic direction.

    Args:
        positions: (3, A) coordinates in Å of the whole batch.
        first_atom: First atom of each structure, (K,).
        num_atoms: Atoms of each structure, (K,).
        cutoff: In Å.
    """
    atoms = ragged_arange(first_atom, num_atoms)
    row_length = np.repeat(num_atoms, num_atoms)
    sender = ragged_arange(np.repeat(first_atom, num_atoms), row_length)
    squared = np.zeros(len(sender))
    for coordinate in positions:
        # The same arithmetic as `measure`, with the receivers repeated instead of gathered.
        along = coordinate.take(sender)
        along -= np.repeat(coordinate.take(atoms), row_length)
        along *= along
        squared += along
    receiver = np.repeat(atoms, row_length)
    kept = squared < cutoff * cutoff
    kept &= receiver != sender
    chosen = np.flatnonzero(kept)
    return Pairs(receiver.take(chosen), sender.take(chosen), squared.take(chosen))


def periodic_pairs(
    positions: FloatArray,
    first_atom: IndexArray,
    num_atoms: IndexArray,
    cells: Cells,
    cutoff: float,
) -> Pairs:
    """Pairs of structures with one, two or three periodic directions.

    For each pair of atoms the images inside the sphere are enumerated one lattice direction after
    the other (Fincke and Pohst, Math. Comp. 44, 463, 1985): in a frame where the cell is
    triangular, the first direction alone decides about the first axis, and what it leaves of the
    squared cutoff bounds the next. Little but neighbours is looked at, however thin or skewed the
    cell.

    Args:
        positions: (3, A) coordinates in Å of the whole batch.
        first_atom: First atom of each structure, (K,).
        num_atoms: Atoms of each structure, (K,).
        cells: Cells of these structures.
        cutoff: In Å.
    """
    atoms = ragged_arange(first_atom, num_atoms)
    cell = np.arange(len(num_atoms))
    row_length = np.repeat(num_atoms, num_atoms)
    # The pairs as places in `atoms`.
    receiver = np.repeat(np.arange(len(atoms)), row_length)
    sender = ragged_arange(np.repeat(np.cumsum(num_atoms) - num_atoms, num_atoms), row_length)
    along_axes = np.einsum(
        "xa,akx->ka", positions.take(atoms, axis=1), cells.axes[np.repeat(cell, num_atoms)]
    )
    pair, image = _images_within(
        [along.take(sender) - along.take(receiver) for along in along_axes],
        structure := np.repeat(cell, num_atoms**2),
        cells.triangle,
        cutoff * _MARGIN,
    )
    return measure(
        positions,
        cells.vectors,
        receiver=atoms.take(receiver.take(pair)),
        sender=atoms.take(sender.take(pair)),
        image=image,
        structure=structure.take(pair),
        cutoff=cutoff,
    )


def _images_within(
    offset: list[FloatArray], structure: IndexArray, triangle: FloatArray, radius: float
) -> tuple[IndexArray, list[IndexArray]]:
    """Lattice points n with |offset + n triangle| <= radius.

    Args:
        offset: Three components of P vectors, (P,) each.
        structure: Lattice of each vector, (P,).
        triangle: (S, 3, 3) upper triangular lattice vectors in rows, positive on the diagonal.
        radius: Of the sphere.

    Returns:
        Index of the vector and the three components of n, for each point, sorted.
    """
    room = np.full(len(structure), radius * radius)
    vector = np.arange(len(structure))
    image: list[IndexArray] = []
    for axis in range(3):
        period = triangle[:, axis, axis].take(structure)
        reach = np.sqrt(room)
        lowest = np.ceil((-reach - offset[0]) / period).astype(np.int64)
        count = np.floor((reach - offset[0]) / period).astype(np.int64)
        count -= lowest - 1
        # The sphere may pass between two images.
        np.maximum(count, 0, out=count)
        parent = np.repeat(np.arange(len(count)), count)
        number = ragged_arange(lowest, count)
        structure = structure.take(parent)
        vector = vector.take(parent)
        offset = [
            component.take(parent) + number * triangle[:, axis, later].take(structure)
            for later, component in enumerate(offset, start=axis)
        ]
        room = room.take(parent)
        room -= offset.pop(0) ** 2
        np.maximum(room, 0, out=room)
        image = [*(component.take(parent) for component in image), number]
    return vector, image
