"""Finds structures with atoms too close to each other: sorted and swept, images included."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.structures import StructureBatch
from mtlpar.graph.neighbors import neighbor_list
from mtlpar.graph.settings import GraphSettings

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]

# A cell thinner than this many limits could need more than one image per direction.
_THIN: Final = 2.0


def has_close_atoms(batch: StructureBatch, limit_angstrom: float) -> BoolArray:
    """Whether two atoms, or an atom and an image, are closer than a limit, (S,).

    Structures are first wrapped and given the images that lie within the limit of their cell; then
    all atoms are sorted along x and compared with the next ones for as long as x allows. The limit
    is short, so few pairs are looked at: this costs a sort, whatever the sizes of the structures.

    Args:
        batch: Structures with finite positions and cells that span their periodic directions.
        limit_angstrom: Shortest distance that is allowed.
    """
    close = np.zeros(len(batch), np.bool_)
    heights = _heights(batch)
    thin: BoolArray = np.any(heights < _THIN * limit_angstrom, axis=1)
    if thin.any():
        close[thin] = _by_neighbor_list(batch.take(np.flatnonzero(thin)), limit_angstrom)
    owner, positions = _with_images(batch, heights, limit_angstrom)
    near = _sweep(owner, positions, limit_angstrom)
    close[near[~thin[near]]] = True
    return close


def _heights(batch: StructureBatch) -> FloatArray:
    """Distance of opposite faces in periodic directions, infinite in the others, (S, 3)."""
    cell = _full_cells(batch)
    area = np.linalg.norm(np.cross(cell[:, [1, 2, 0]], cell[:, [2, 0, 1]]), axis=2)
    heights = np.abs(np.linalg.det(cell))[:, None] / area
    return np.where(batch.pbc.astype(np.bool_), heights, np.inf)


def _full_cells(batch: StructureBatch) -> FloatArray:
    """Cells whose directions that do not repeat are unit vectors across the others, (S, 3, 3)."""
    cell = batch.cell.astype(np.float64)
    repeats = batch.pbc.astype(np.bool_)
    cell[~repeats] = 0.0
    cell[~repeats.any(axis=1)] = np.eye(3)
    partial = np.flatnonzero(repeats.any(axis=1) & ~repeats.all(axis=1))
    # The right singular vectors without a singular value are orthogonal to all lattice vectors.
    _, _, across = np.linalg.svd(cell[partial])
    rank = np.cumsum(~repeats[partial], axis=1)
    for axis in range(3):
        open_axis = ~repeats[partial, axis]
        # The first open direction takes the last vector, the second the one before.
        cell[partial[open_axis], axis] = across[open_axis, 3 - rank[open_axis, axis]]
    return cell


def _with_images(
    batch: StructureBatch, heights: FloatArray, limit_angstrom: float
) -> tuple[IndexArray, FloatArray]:
    """Structure and position of all atoms, wrapped, and of images within the limit of the cell."""
    owner = np.repeat(np.arange(len(batch)), batch.num_atoms)
    positions = batch.positions.astype(np.float64)
    if not batch.pbc.any():
        return owner, positions
    cell = _full_cells(batch)
    fractions = np.einsum("ai,aij->aj", positions, np.linalg.inv(cell)[owner])
    repeats = batch.pbc.astype(np.bool_)
    fractions -= np.where(repeats[owner], np.floor(fractions), 0.0)
    margin = limit_angstrom / heights
    for axis in range(3):
        # Images of images fill edges and corners. One side is enough: each pair meets there.
        low = np.flatnonzero(fractions[:, axis] < margin[owner, axis])
        low = low[repeats[owner[low], axis]]
        images = fractions[low]
        images[:, axis] += 1.0
        fractions = np.concatenate([fractions, images])
        owner = np.concatenate([owner, owner[low]])
    return owner, np.einsum("ai,aij->aj", fractions, cell[owner])


def _sweep(owner: IndexArray, positions: FloatArray, limit_angstrom: float) -> IndexArray:
    """Structures of all pairs closer than the limit, with repeats."""
    if len(owner) == 0:
        return np.zeros(0, np.int64)
    x = positions[:, 0]
    # Structures side by side on one axis, with gaps wider than the limit.
    stride = x.max() - x.min() + 2 * limit_angstrom
    order = np.argsort(x - x.min() + owner * stride)
    owner, positions = owner[order], positions[order]
    x, y, z = positions.T.copy()
    # The gaps end every structure's sweep, so a look at x is enough.
    x += owner * stride
    found = []
    first = np.arange(len(owner) - 1)
    step = 1
    while len(first):
        first = first[x[first + step] - x[first] < limit_angstrom]
        second = first + step
        square = (x[second] - x[first]) ** 2 + (y[second] - y[first]) ** 2
        square += (z[second] - z[first]) ** 2
        found.append(owner[first[square < limit_angstrom**2]])
        step += 1
        first = first[: np.searchsorted(first, len(owner) - step)]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _by_neighbor_list(batch: StructureBatch, limit_angstrom: float) -> BoolArray:
    edges = neighbor_list(batch, GraphSettings(cutoff_angstrom=limit_angstrom))
    owner = np.repeat(np.arange(len(batch)), batch.num_atoms)
    return np.bincount(owner[edges.receiver], minlength=len(batch)) > 0
