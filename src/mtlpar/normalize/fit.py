"""Least-squares fit of reference energies, streamed and in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import MAX_ATOMIC_NUMBER
from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ReferenceFit:
    """Result of `fit_references`.

    Attributes:
        references: Energies of the elements that occur.
        rank: Rank of the composition matrix; below the number of elements, the minimum-norm
            solution was taken.
        num_structures: Structures that the fit saw.
    """

    references: References
    rank: int
    num_structures: int


def composition(batch: StructureBatch) -> FloatArray:
    """Number of atoms of each element in each structure, (S, 119)."""
    columns = MAX_ATOMIC_NUMBER + 1
    owner = np.repeat(np.arange(len(batch), dtype=np.int64), batch.num_atoms)
    counts = np.bincount(owner * columns + batch.atomic_numbers, minlength=len(batch) * columns)
    return counts.reshape(len(batch), columns).astype(np.float64)


def fit_references(batches: Iterable[StructureBatch]) -> ReferenceFit:
    """Fit E_total ~ sum_Z n_Z e_Z over all structures.

    A QR factorisation is updated block by block, so neither memory nor the condition number
    suffers: normal equations would square it. The triangle that is left is solved by SVD with a
    rank cut-off; among equal solutions the one of minimum norm is taken.

    Args:
        batches: Structures of the train split only.

    Raises:
        ValueError: If there is no structure to fit.
    """
    triangle: FloatArray = np.zeros((0, MAX_ATOMIC_NUMBER + 2))
    atoms_of_element: FloatArray = np.zeros(MAX_ATOMIC_NUMBER + 1)
    num_structures = 0
    for batch in batches:
        counts = composition(batch)
        atoms_of_element += counts.sum(axis=0)
        rows = np.concatenate([counts, batch.energy[:, None]], axis=1)
        stacked = np.concatenate([triangle, rows])
        triangle = np.asarray(np.linalg.qr(stacked, mode="r"))
        num_structures += len(batch)
    if num_structures == 0:
        raise ValueError("no training structure to fit reference energies on")
    present = np.flatnonzero(atoms_of_element)
    cutoff = np.finfo(np.float64).eps * max(num_structures, len(present))
    energies, _, rank, _ = np.linalg.lstsq(triangle[:, present], triangle[:, -1], rcond=cutoff)
    table = np.full(MAX_ATOMIC_NUMBER + 1, np.nan)
    table[present] = energies
    return ReferenceFit(References.from_table(table), int(rank), num_structures)
