"""Checks that hold for structures of every source, vectorised over a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import LABELS, MAX_ATOMIC_NUMBER
from mtlpar.core.room import LEAST_ROOM, room
from mtlpar.core.structures import StructureBatch

BoolArray = npt.NDArray[np.bool_]

# Lattice vectors count as dependent where their parallelepiped has less than this fraction of the
# volume of a box with the same edges; real cells stay thousands of times above it.
_SINGULAR_FRACTION: Final = 1e-5
# The heaviest elements have total energies of -1.5e6 eV with all their electrons.
_MAX_ENERGY_EV_PER_ATOM: Final = 2e6


class Checked(NamedTuple):
    """What can be used of a batch, and what became of the rest.

    Attributes:
        batch: The usable structures in their order; values of labels that they lack are zero.
        dropped: The others, counted by reason, each under the first that applies.
        removed_labels: Labels that were taken off structures which are kept, counted by reason.
    """

    batch: StructureBatch
    dropped: Counter[str]
    removed_labels: Counter[str]


def check(batch: StructureBatch, *, max_force: float) -> Checked:
    """Separate what can be used from what cannot.

    A stress with a NaN is one that the structure lacks: that is how files say it. An energy or a
    force that is not finite costs the structure, for then something went wrong in the calculation.

    Args:
        batch: S structures.
        max_force: Longest force vector on any atom, eV/Å.
    """
    batch, removed = _without_impossible_stress(batch)
    usable = np.ones(len(batch), np.bool_)
    dropped: Counter[str] = Counter()
    for reason, bad in _verdicts(batch, max_force):
        count = int((usable & bad).sum())
        if count:
            dropped[reason] = count
            usable &= ~bad
    kept = batch.take(np.flatnonzero(usable)) if dropped else batch
    return Checked(kept, dropped, removed)


def _without_impossible_stress(batch: StructureBatch) -> tuple[StructureBatch, Counter[str]]:
    """Take off stresses that are NaN, and those of structures that have no volume.

    Several calculators write a stress for molecules too; only these are counted as removed.
    """
    if not batch.stress_mask.any():
        return batch, Counter()
    missing = np.isnan(batch.stress).any(axis=1)
    volume = np.abs(np.linalg.det(np.nan_to_num(batch.cell.astype(np.float64))))
    nowhere = ~missing & batch.has("stress") & ~(batch.pbc.any(axis=1) & (volume > 0))
    gone = missing | nowhere
    if not gone.any():
        return batch, Counter()
    columns = batch.columns()
    columns["stress"] = np.where(gone[:, None], np.float32(0), batch.stress)
    columns["stress_mask"] = batch.stress_mask * ~gone
    count = int(nowhere.sum())
    return StructureBatch(columns), Counter({"stress_without_volume": count} if count else {})


def _any_atom(batch: StructureBatch, atoms: npt.ArrayLike) -> BoolArray:
    """Which structures have one of the atoms, (S,)."""
    owner = np.repeat(np.arange(len(batch)), batch.num_atoms)
    return np.bincount(owner[np.asarray(atoms)], minlength=len(batch)) > 0


def _verdicts(batch: StructureBatch, max_force: float) -> Iterator[tuple[str, BoolArray]]:
    yield "no_atoms", batch.num_atoms == 0
    numbers = batch.atomic_numbers
    yield "unknown_element", _any_atom(batch, (numbers < 1) | (numbers > MAX_ATOMIC_NUMBER))
    yield "non_finite_positions", _any_atom(batch, _not_finite(batch.positions))
    yield "non_finite_cell", _not_finite(batch.cell)
    yield "non_finite_energy", _not_finite(batch.energy)
    yield "energy_too_large", np.abs(batch.energy) > _MAX_ENERGY_EV_PER_ATOM * batch.num_atoms
    yield "non_finite_forces", _any_atom(batch, _not_finite(batch.forces))
    yield "non_finite_stress", _not_finite(batch.stress)
    lengths = np.linalg.norm(batch.forces.astype(np.float64), axis=1)
    yield "force_too_large", _any_atom(batch, lengths > max_force)
    yield "singular_cell", _has_singular_cell(batch)
    yield "cell_too_small", room(batch.cell, batch.pbc, batch.num_atoms) < LEAST_ROOM
    yield "no_label", ~np.logical_or.reduce([batch.has(label) for label in LABELS])


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
