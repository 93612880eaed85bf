"""Brings structures that lie far from the origin near it, before positions are rounded to float32.

Float32 resolves 1e-6 Å at 10 Å and 8e-3 Å at 1e5 Å, where unwrapped trajectories of long runs get.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

FAR_ANGSTROM: Final = 100.0
"""Structures without an atom further out stay as the source gives them."""


def near_origin(
    positions: FloatArray,
    num_atoms: npt.NDArray[np.integer],
    cell: FloatArray,
    pbc: npt.NDArray[np.generic],
) -> FloatArray:
    """The same structures with atoms near the origin, in float64.

    Along periodic lattice vectors each atom moves by whole ones into the cell; along the others
    all atoms of a structure move together. Energies, forces and stresses do not change.

    Args:
        positions: Positions in Å, (A, 3).
        num_atoms: Atoms per structure, (S,).
        cell: Lattice vectors in Å in rows, (S, 3, 3).
        pbc: Which of them repeat, (S, 3).

    Returns:
        Positions in Å, (A, 3); the array that was given if no structure is far out.
    """
    with np.errstate(invalid="ignore"):
        far_atoms = (np.abs(positions) > FAR_ANGSTROM).any(axis=1)
    far_atoms &= np.isfinite(positions).all(axis=1)
    owner = np.repeat(np.arange(len(num_atoms)), num_atoms)
    far = np.unique(owner[far_atoms])
    if len(far) == 0:
        return positions
    moved = positions.copy()
    ends = np.cumsum(num_atoms)
    for index in far.tolist():
        atoms = slice(int(ends[index] - num_atoms[index]), int(ends[index]))
        moved[atoms] = _moved(positions[atoms], cell[index], pbc[index].astype(np.bool_))
    return moved


def _moved(positions: FloatArray, cell: FloatArray, periodic: npt.NDArray[np.bool_]) -> FloatArray:
    """Positions of one structure, (N, 3)."""
    vectors = cell[periodic]
    if periodic.any():
        if np.linalg.matrix_rank(vectors) < len(vectors):
            # Checks will refuse the cell; what is wrong with it must stay visible.
            return positions
        # Components along the periodic vectors, whatever the others are.
        share = positions @ np.linalg.pinv(vectors)
        positions = positions - np.floor(share) @ vectors
    if periodic.all():
        return positions
    # What is left of the centre once periodic directions are taken out moves to the origin.
    centre = positions.mean(axis=0)
    if periodic.any():
        centre = centre - centre @ np.linalg.pinv(vectors) @ vectors
    moved: FloatArray = positions - centre
    return moved
