"""Checks that hold for structures of every source, vectorised over a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import MAX_ATOMIC_NUMBER
from mtlpar.core.structures import StructureBatch

BoolArray = npt.NDArray[np.bool_]

# Lattice vectors count as dependent where their parallelepiped has less than this fraction of the
# volume of a box with the same edges; real cells stay thousands of times above it.
_SINGULAR_FRACTION: Final = 1e-5
# The heaviest elements have total energies of -1.5e6 eV with all their electrons.
_MAX_ENERGY_EV_PER_ATOM: Final = 2e6


def check(batch: StructureBatch, *, max_force: float) -> tuple[StructureBatch, Counter[str]]:
    """Separate what can be used from what cannot.

    Args:
        batch: S structures.
        max_force: Longest force vector on any atom, eV/Å.

    Returns:
        The usable structures in their order, and the others counted by reason, each under the
        first reason that applies.
    """
    usable = np.ones(len(batch), np.bool_)
    dropped: Counter[str] = Counter()
    for reason, bad in _verdicts(batch, max_force):
        count = int((usable & bad).sum())
        if count:
            dropped[reason] = count
            usable &= ~bad
    return (batch.take(np.flatnonzero(usable)) if dropped else batch), dropped


def _verdicts(batch: StructureBatch, max_force: float) -> Iterator[tuple[str, BoolArray]]:
    owner = np.repeat(np.arange(len(batch)), batch.num_atoms)

    def any_atom(bad_atoms: npt.ArrayLike) -> BoolArray:
        return np.bincount(owner[np.asarray(bad_atoms)], minlength=len(batch)) > 0

    yield "no_atoms", batch.num_atoms == 0
    numbers = batch.atomic_numbers
    yield "unknown_element", any_atom((numbers < 1) | (numbers > MAX_ATOMIC_NUMBER))
    yield "non_finite_positions", any_atom(_not_finite(batch.positions))
    yield "non_finite_cell", _not_finite(batch.cell)
    yield "non_finite_energy", _not_finite(batch.energy)
    yield "energy_too_large", np.abs(batch.energy) > _MAX_ENERGY_EV_PER_ATOM * batch.num_atoms
    yield "non_finite_forces", any_atom(_not_finite(batch.forces))
    yield "non_finite_stress", _not_finite(batch.stress)
    lengths = np.linalg.norm(batch.forces.astype(np.float64), axis=1)
    yield "force_too_large", any_atom(lengths > max_force)
    yield "singular_cell", _has_singular_cell(batch)


def _not_finite(rows: npt.NDArray[Any]) -> BoolArray:
    finite: BoolArray = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
    return ~finite


def _has_singular_cell(batch: StructureBatch) -> BoolArray:
    """Whether the periodic lattice vectors are dependent, for 1, 2 or 3 of them."""
    periodic = batch.pbc.astype(np.bool_)
    cell = np.nan_to_num(batch.cell.astype(np.float64), posinf=0.0, neginf=0.0)
    lengths = np.linalg.norm(cell, axis=2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        directions = cell / lengths
    empty = periodic & (lengths[:, :, 0] == 0)
    directions = np.where((periodic & ~empty)[:, :, None], directions, 0.0)
    # Gram matrix of the periodic directions; the others stand in as independent unit vectors.
    gram = directions @ directions.transpose(0, 2, 1)
    axes = np.arange(3)
    gram[:, axes, axes] = 1.0
    fraction_squared: npt.NDArray[np.float64] = np.linalg.det(gram)
    singular: BoolArray = (fraction_squared < _SINGULAR_FRACTION**2) | empty.any(axis=1)
    return singular
