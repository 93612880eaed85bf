"""Periodic cells of many structures at once, each in a frame that makes it triangular."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtlpar.core.structures import StructureBatch

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# An open direction repeats after this many Å: no image is ever in reach.
_NEVER = 1e9
# Part of a vector that is orthogonal to the others. Below this, float32 cannot tell it from zero.
_FLAT = 1e-6


@dataclass(frozen=True, slots=True)
class Cells:
    """Lattices of S structures.

    Attributes:
        vectors: (S, 3, 3) lattice vectors in rows, in Å; zero along open directions.
        axes: (S, 3, 3) orthonormal axes in rows. The last lies along the last vector, the last two
            in the plane of the last two vectors.
        triangle: (S, 3, 3) components of the vectors along the axes, in Å, upper triangular. Open
            directions have a vector here too, so long that no image is in reach.
    """

    vectors: FloatArray
    axes: FloatArray
    triangle: FloatArray

    @classmethod
    def of(cls, batch: StructureBatch) -> Cells:
        """Prepare the cells of a batch.

        Raises:
            ValueError: If periodic vectors are zero, parallel or not finite.
        """
        periodic = batch.pbc.astype(bool)
        vectors = np.where(periodic[:, :, None], batch.cell, 0).astype(np.float64)
        if not periodic.any():
            never = np.broadcast_to(_NEVER * np.eye(3), vectors.shape)
            return cls(vectors, never / _NEVER, never)
        spanning = complete(vectors, periodic, _NEVER)
        axes, triangle = np.zeros_like(vectors), np.zeros_like(vectors)
        for row in (2, 1, 0):
            rest = spanning[:, row].copy()
            for known in range(2, row, -1):
                component = (rest * axes[:, known]).sum(axis=1)
                rest -= component[:, None] * axes[:, known]
                triangle[:, row, known] = component
            length = np.linalg.norm(rest, axis=1)
            # Written so that NaN counts as flat.
            flat = ~(length > _FLAT * np.linalg.norm(spanning[:, row], axis=1))
            if flat.any():
                _refuse(batch, int(np.flatnonzero(flat)[0]))
            triangle[:, row, row] = length
            axes[:, row] = rest / length[:, None]
        return cls(vectors, axes, triangle)

    def take(self, indices: IndexArray) -> Cells:
        """Return the cells at ``indices``."""
        return Cells(self.vectors[indices], self.axes[indices], self.triangle[indices])


def complete(vectors: FloatArray, periodic: BoolArray, length_angstrom: float) -> FloatArray:
    """Put vectors of a length, orthogonal to all others, in the place of open directions.

    Args:
        vectors: Lattice vectors in rows, (S, 3, 3).
        periodic: Which of them are to stay, (S, 3).
        length_angstrom: Length of the others.
    """
    filled = vectors.copy()
    filled[~periodic.any(axis=1)] = length_angstrom * np.eye(3)
    mixed = np.flatnonzero(periodic.any(axis=1) & ~periodic.all(axis=1))
    if len(mixed):
        # Householder's QR of the periodic vectors, followed by zeros, completes their basis.
        order = np.argsort(~periodic[mixed], axis=1, kind="stable")
        basis = np.linalg.qr(np.swapaxes(vectors[mixed[:, None], order], 1, 2)).Q
        row, place = np.nonzero(np.take_along_axis(~periodic[mixed], order, axis=1))
        filled[mixed[row], order[row, place]] = length_angstrom * basis[row, :, place]
    return filled


def _refuse(batch: StructureBatch, index: int) -> None:
    raise ValueError(
        f"no neighbour list for structure {batch.structure_id[index]:016x}: its cell "
        f"{batch.cell[index].tolist()} does not span the periodic directions of pbc "
        f"{batch.pbc[index].astype(bool).tolist()}; correct the source's cell or pbc"
    )
