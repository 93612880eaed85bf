"""Least-squares fit of reference energies from sums that any number of processes can gather."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Final

import numpy as np
import numpy.typing as npt
from ase.data import chemical_symbols

from mtlpar.core.composition import NUM_ELEMENTS, compositions
from mtlpar.core.references import References
from mtlpar.core.structures import iterate_slices
from mtlpar.normalize.exact import (
    MAX_ROWS,
    QUANTA_PER_UNIT,
    square_quanta,
    to_digits,
    to_quanta,
)

ObjectArray = npt.NDArray[np.object_]

# Digits of the arithmetic that solves the normal equations. They square the condition number, and
# the projection on the row space squares it again: 80 digits leave more than 30 to spare.
_DECIMAL_DIGITS: Final = 80
# Relative to its element's own count a dependent pivot is 1e-78, an independent one above 1e-30.
_DEPENDENT: Final = Decimal("1e-45")


@dataclass(slots=True)
class Moments:
    """Sufficient statistics of E_total ~ sum_Z n_Z e_Z; all are exact integers.

    Attributes:
        num_structures: Structures seen.
        gram: Sum of n_Z n_Z' over structures, (119, 119) int64.
        energy: Sum of n_Z E in 2^-57 eV, (119,) integers without bounds.
        energy_square: Sum of E^2 in 2^-114 eV^2.
    """

    num_structures: int
    gram: npt.NDArray[np.int64]
    energy: ObjectArray
    energy_square: int

    @classmethod
    def none(cls) -> Moments:
        """The statistics of no structure."""
        zeros = np.zeros((NUM_ELEMENTS, NUM_ELEMENTS), np.int64)
        return cls(0, zeros, zeros[0].astype(object), 0)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.num_structures + other.num_structures,
            self.gram + other.gram,
            self.energy + other.energy,
            self.energy_square + other.energy_square,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceFit:
    """Reference energies, and how well the training data determine them.

    Attributes:
        references: Energies of the elements that occur.
        standard_errors_ev: Standard error by element; None where there are no more structures
            than unknowns. They take residuals as independent, which frames of one group are not.
        undetermined: Elements whose own energy the data leave open, because they only occur in
            fixed ratios with others; theirs are of minimum norm.
        rank: Rank of the composition matrix, found without a tolerance; None without a fit.
        residual_rms_ev: Root-mean-square residual of the total energy; None without a fit.
        taken_from: What the energies were taken from.
    """

    references: References
    standard_errors_ev: Mapping[str, float | None] = field(default_factory=dict)
    undetermined: tuple[str, ...] = ()
    rank: int | None = None
    residual_rms_ev: float | None = None
    taken_from: str = "settings"


def gather_moments(
    num_atoms: npt.NDArray[np.int32],
    atomic_numbers: npt.NDArray[np.uint8],
    energy: npt.NDArray[np.float64],
) -> Moments:
    """Sufficient statistics of S structures.

    Args:
        num_atoms: Atoms per structure, (S,).
        atomic_numbers: Elements of all atoms, (A,).
        energy: Total energies in eV, (S,).
    """
    total = Moments.none()
    ends = np.concatenate([[0], np.cumsum(num_atoms, dtype=np.int64)])
    for start, stop in iterate_slices(len(num_atoms), MAX_ROWS):
        numbers = atomic_numbers[ends[start] : ends[stop]]
        total += _moments_of_block(num_atoms[start:stop], numbers, energy[start:stop])
    return total


def _moments_of_block(
    num_atoms: npt.NDArray[np.int32],
    atomic_numbers: npt.NDArray[np.uint8],
    energy: npt.NDArray[np.float64],
) -> Moments:
    found = compositions(num_atoms, atomic_numbers)
    digits = to_digits(energy)
    multiplicity = np.bincount(found.member)
    digit_sums = np.stack([np.bincount(found.member, column) for column in digits.T], axis=1)
    present = np.flatnonzero(found.counts.any(axis=0))
    # Integers below 2^53: the products are exact in float64, and BLAS is fast.
    counts = found.counts[:, present].astype(np.float64)
    moments = Moments.none()
    moments.num_structures = len(energy)
    moments.gram[np.ix_(present, present)] = (counts.T * multiplicity) @ counts
    moments.energy[present] = to_quanta(counts.T @ digit_sums)
    moments.energy_square = square_quanta(digits)
    return moments


def solve_references(moments: Moments) -> ReferenceFit:
    """Solve for the reference energies, the same on every machine to the last bit.

    The normal equations are exact integers and are solved in decimals of 80 digits, so squaring
    the condition number costs nothing and the rank needs no judgement. With R the independent rows
    of the Gram matrix G, the solution of minimum norm is R^T (R R^T)^-1 b.

    Raises:
        ValueError: If there is no structure to fit.
    """
    if moments.num_structures == 0:
        raise ValueError("no training structure to fit reference energies on")
    present = np.flatnonzero(np.diag(moments.gram))
    with localcontext(prec=_DECIMAL_DIGITS):
        gram = _decimals(moments.gram[np.ix_(present, present)])
        right = _decimals(moments.energy[present]) / QUANTA_PER_UNIT
        square = Decimal(moments.energy_square) / QUANTA_PER_UNIT**2
        rows = _independent_rows(gram)
        base = gram[rows]
        is_full = len(rows) == len(gram)
        lift = _inverse(gram) if is_full else base.T @ _inverse(base @ base.T)
        energies = lift @ right[rows]
        residual_square = max(square - energies @ right, Decimal(0))
        covariance = ((lift @ gram[np.ix_(rows, rows)]) * lift).sum(axis=1)
        projection = (lift * base.T).sum(axis=1)
        freedom = moments.num_structures - len(rows)
        symbols = [chemical_symbols[z] for z in present]
        return ReferenceFit(
            references=References(dict(zip(symbols, map(float, energies), strict=True))),
            standard_errors_ev={
                symbol: float((variance * residual_square / freedom).sqrt()) if freedom else None
                for symbol, variance in zip(symbols, covariance, strict=True)
            },
            undetermined=tuple(
                symbol
                for symbol, share in zip(symbols, projection, strict=True)
                if 1 - share > _DEPENDENT
            ),
            rank=len(rows),
            taken_from="fit",
            residual_rms_ev=float((residual_square / moments.num_structures).sqrt()),
        )


def _decimals(integers: npt.NDArray[np.generic]) -> ObjectArray:
    flat = [Decimal(int(value)) for value in integers.ravel()]
    return np.array(flat, dtype=object).reshape(integers.shape)


def _independent_rows(gram: ObjectArray) -> list[int]:
    """Rows that span the rows of a Gram matrix: elimination with the largest pivot first."""
    scale = np.diag(gram)
    left, rest = np.arange(len(gram)), gram
    rows: list[int] = []
    while len(left):
        share = np.diag(rest) / scale[left]
        pivot = int(np.argmax(share))
        if share[pivot] < _DEPENDENT:
            break
        rows.append(int(left[pivot]))
        others = np.arange(len(left)) != pivot
        column = rest[others, pivot]
        rest = rest[np.ix_(others, others)] - np.outer(column / rest[pivot, pivot], column)
        left = left[others]
    return sorted(rows)


def _inverse(matrix: ObjectArray) -> ObjectArray:
    """Inverse of a positive definite matrix by elimination."""
    size = len(matrix)
    rows = np.concatenate([matrix, _decimals(np.eye(size, dtype=np.int64))], axis=1)
    for pivot in range(size):
        # Left of these columns the work is done, right of them the identity is untouched.
        columns = slice(pivot, pivot + size + 1)
        rows[pivot, columns] = rows[pivot, columns] / rows[pivot, pivot]
        factor = rows[:, pivot].copy()
        factor[pivot] = Decimal(0)
        rows[:, columns] = rows[:, columns] - np.outer(factor, rows[pivot, columns])
    return rows[:, size:]
