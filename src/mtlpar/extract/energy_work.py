"""Compares energy differences with the work of the forces where rows are neighbouring frames.

Over a short step dE = -sum_i F_i . dx_i, with forces averaged over both frames, and the strain of
the cell adds V sigma : epsilon. A slope of dE against this of 1 says that energies, forces and
positions share their units and signs; a slope of -1, 27.2 or 0.0434 says what was mistaken.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.structures import StructureBatch, atom_indices
from mtlpar.core.units import BOHR_ANGSTROM, HARTREE_EV

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]

# Longer steps are not short, and steps of less energy drown in the rounding of float32 positions.
_MAX_STEP_ANGSTROM: Final = 0.3
_MAX_STRAIN: Final = 0.05
_MIN_ENERGY_EV: Final = 2e-3
# The median is told apart from a wrong unit long before this many steps; fewer prove nothing.
MIN_PAIRS: Final = 30
_BINS_PER_E: Final = 50

_KCAL_PER_MOL_PER_EV: Final = 23.060548
_KJ_PER_MOL_PER_EV: Final = 96.485332
_MISTAKES: Final = {
    HARTREE_EV: "forces in Hartree/Å beside energies in eV",
    1 / HARTREE_EV: "energies in Hartree beside forces in eV/Å",
    _KCAL_PER_MOL_PER_EV: "energies in kcal/mol beside forces in eV/Å",
    1 / _KCAL_PER_MOL_PER_EV: "forces in kcal/mol/Å beside energies in eV",
    _KJ_PER_MOL_PER_EV: "energies in kJ/mol beside forces in eV/Å",
    1 / _KJ_PER_MOL_PER_EV: "forces in kJ/mol/Å beside energies in eV",
    1 / BOHR_ANGSTROM: "forces per bohr beside positions in Å",
    BOHR_ANGSTROM: "positions in bohr beside forces per Å",
    HARTREE_EV / BOHR_ANGSTROM: "forces in Hartree/bohr beside energies in eV",
    BOHR_ANGSTROM / HARTREE_EV: "energies in Hartree and positions in bohr beside forces in eV/Å",
}
# Factors closer than this are the same mistake; two of the list never are.
_SAME_FACTOR: Final = 1.08
_RIGHT: Final = (0.6, 1.6)


class EnergyWork:
    """Distribution of dE over work, gathered block by block and file by file.

    Attributes:
        bins: Steps by sign and logarithm of their ratio; `Counter` keys are (sign, bin).
    """

    def __init__(self) -> None:
        """Start without steps."""
        self.bins: Counter[tuple[int, int]] = Counter()

    def add(self, batch: StructureBatch) -> None:
        """Take in the steps between consecutive structures of a batch."""
        energy, work = _steps(batch)
        clear = np.sqrt(np.abs(energy * work)) > _MIN_ENERGY_EV
        ratio = energy[clear] / work[clear]
        places = np.rint(_BINS_PER_E * np.log(np.abs(ratio))).astype(np.int64)
        signs = np.sign(ratio).astype(np.int64)
        self.bins.update(zip(signs.tolist(), places.tolist(), strict=True))

    def merge(self, other: EnergyWork) -> None:
        """Take in the steps of another part of the data."""
        self.bins.update(other.bins)

    @property
    def num_pairs(self) -> int:
        """Steps taken in."""
        return self.bins.total()

    def quantile(self, share: float) -> float | None:
        """A quantile of the ratio dE / work to 1 %; None where there are too few steps."""
        if self.num_pairs < MIN_PAIRS:
            return None
        wanted = share * (self.num_pairs - 1)
        ratios = sorted(
            (sign * float(np.exp(place / _BINS_PER_E)), count)
            for (sign, place), count in self.bins.items()
        )
        seen = 0
        for ratio, count in ratios:
            seen += count
            if seen > wanted:
                return ratio
        raise AssertionError("counts add up to the total")

    def as_dict(self) -> dict[str, Any]:
        """What the manifest keeps: slope and quartiles, null where rows are no trajectory."""
        slope, low, high = (self.quantile(share) for share in (0.5, 0.25, 0.75))
        quartiles = None if slope is None else [low, high]
        return {"pairs": self.num_pairs, "slope": slope, "quartiles": quartiles}

    def to_record(self) -> list[list[int]]:
        """Sign, place and count of every bin, which `from_record` reads."""
        return [[*bin_, count] for bin_, count in sorted(self.bins.items())]

    @classmethod
    def from_record(cls, content: list[list[int]]) -> EnergyWork:
        """What `to_record` wrote."""
        work = cls()
        work.bins.update({(sign, place): count for sign, place, count in content})
        return work


def explain_slope(slope: float) -> str | None:
    """What is wrong with data of a given slope of energy against work; None if nothing is."""
    if _RIGHT[0] < slope < _RIGHT[1]:
        return None
    reasons = ["the sign of forces or energies is wrong"] if slope < 0 else []
    reasons += [
        f"{text} (slope {factor:.4g})"
        for factor, text in _MISTAKES.items()
        if abs(math.log(abs(slope) / factor)) < math.log(_SAME_FACTOR)
    ]
    return " and ".join(reasons) or "units of energies and forces do not match"


def _steps(batch: StructureBatch) -> tuple[FloatArray, FloatArray]:
    """Energy difference and work in eV of each step between neighbouring frames."""
    first = _neighbours(batch)
    offsets = batch.offsets
    before, after = atom_indices(offsets, first), atom_indices(offsets, first + 1)
    same = batch.atomic_numbers[before] == batch.atomic_numbers[after]
    step = np.repeat(np.arange(len(first)), batch.num_atoms[first])
    cell = batch.cell.astype(np.float64)
    change, strain, is_small = _strain(cell[first], cell[first + 1], batch.pbc[first])
    positions = batch.positions.astype(np.float64)
    moved = positions[after] - np.einsum("ai,aij->aj", positions[before], change[step])
    moved = _shortest_image(moved, cell[first + 1], batch.pbc[first], step)
    short = same & ((moved**2).sum(axis=1) < _MAX_STEP_ANGSTROM**2)
    usable = is_small & (np.bincount(step[~short], minlength=len(first)) == 0)
    force = 0.5 * (batch.forces[before].astype(np.float64) + batch.forces[after])
    by_forces = np.bincount(step, -(force * moved).sum(axis=1), minlength=len(first))
    work: FloatArray = by_forces + _strain_work(batch, cell, first, strain)
    strained = np.abs(strain).max(axis=(1, 2), initial=0.0) > 1e-7
    has_stress = (batch.stress_mask[first] & batch.stress_mask[first + 1]).astype(np.bool_)
    usable &= has_stress | ~strained
    return (batch.energy[first + 1] - batch.energy[first])[usable], work[usable]


def _neighbours(batch: StructureBatch) -> IndexArray:
    """Rows whose next row may be the next frame of the same system."""
    columns = (batch.group, batch.num_atoms, batch.charge, batch.spin)
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    return np.flatnonzero(same & (batch.pbc[1:] == batch.pbc[:-1]).all(axis=1))


def _strain(
    before: FloatArray, after: FloatArray, pbc: npt.NDArray[np.uint8]
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Deformation that takes one cell into the next, its symmetric strain, and whether it is small.

    Only fully periodic cells can be strained; of others only equal ones are used.
    """
    change = np.tile(np.eye(3), (len(before), 1, 1))
    full = pbc.astype(np.bool_).all(axis=1)
    change[full] = np.linalg.solve(before[full], after[full])
    strain = 0.5 * (change + change.transpose(0, 2, 1)) - np.eye(3)
    is_small = np.where(
        full,
        np.abs(change - np.eye(3)).max(axis=(1, 2), initial=0.0) < _MAX_STRAIN,
        (before == after).all(axis=(1, 2)),
    )
    return change, strain, is_small


def _shortest_image(
    moved: FloatArray, cell: FloatArray, pbc: npt.NDArray[np.uint8], step: IndexArray
) -> FloatArray:
    """Take whole lattice vectors off displacements: frames may be wrapped differently."""
    full = pbc.astype(np.bool_).all(axis=1)
    if not full.any():
        return moved
    inverse = np.tile(np.zeros((3, 3)), (len(cell), 1, 1))
    inverse[full] = np.linalg.inv(cell[full])
    whole = np.rint(np.einsum("ai,aij->aj", moved, inverse[step]))
    shortest: FloatArray = moved - np.einsum("ai,aij->aj", whole, cell[step])
    return shortest


def _strain_work(
    batch: StructureBatch, cell: FloatArray, first: IndexArray, strain: FloatArray
) -> FloatArray:
    """V sigma : epsilon in eV of each step, with stress and volume averaged over both frames."""
    volume = np.abs(np.linalg.det(cell))
    stress = volume[:, None] * batch.stress.astype(np.float64)
    xx, yy, zz, yz, xz, xy = (0.5 * (stress[first] + stress[first + 1])).T
    work: FloatArray = (
        xx * strain[:, 0, 0]
        + yy * strain[:, 1, 1]
        + zz * strain[:, 2, 2]
        + 2 * (yz * strain[:, 1, 2] + xz * strain[:, 0, 2] + xy * strain[:, 0, 1])
    )
    return work
