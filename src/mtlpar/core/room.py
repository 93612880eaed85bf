"""How much room a cell leaves for its atoms: too little means that it is in other units.

A neighbour search would find millions of images of each atom then, and end the process for lack of
memory, with every other structure in it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

LEAST_ROOM: Final = 0.1
"""Å^3 for an atom. Hydrogen at the pressures of stars has more; solids have 5 and above."""


def room(
    cell: npt.ArrayLike, pbc: npt.ArrayLike, num_atoms: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Volume for each atom in Å^3, or length or area of the cell where fewer directions repeat.

    Atoms of a slab or a wire can stand far above each other, so there the cell counts as a whole.

    Args:
        cell: Lattice vectors as rows in Å, (S, 3, 3).
        pbc: Which directions repeat, (S, 3).
        num_atoms: Atoms of each structure, (S,).

    Returns:
        Å^3, Å^2 or Å, infinite for structures that do not repeat, (S,).
    """
    repeats = np.asarray(pbc, np.bool_)
    vectors = np.where(repeats[:, :, None], np.asarray(cell, np.float64), 0.0)
    axes = np.arange(3)
    with np.errstate(over="ignore", invalid="ignore"):
        gram = vectors @ vectors.transpose(0, 2, 1)
        gram[:, axes, axes] += ~repeats
        measure = np.sqrt(np.maximum(np.linalg.det(gram), 0.0))
    of_atom = measure / np.maximum(np.asarray(num_atoms), 1)
    directions = repeats.sum(axis=1)
    return np.where(directions == 3, of_atom, np.where(directions > 0, measure, np.inf))
