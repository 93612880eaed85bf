"""Compares energy differences with the work of forces and stress between neighbouring frames.

Over a short step dE = -sum_i F_i . dx_i + V sigma : epsilon, with forces, stress and volume
averaged over both frames, dx without what the strain epsilon does to the positions. Where the cell
stays, the slope of dE against the work of the forces says whether energies, forces and
positions share their units and signs: a slope of -1, 27.2 or 0.0434 says what was mistaken. Where
the cell changes, the slope of what the forces leave of dE against the work of the stress says the
same of the stress.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mtlpar.core.structures import StructureBatch, atom_indices
from mtlpar.core.units import (
    BOHR_ANGSTROM,
    EV_PER_CUBIC_ANGSTROM_GPA,
    HARTREE_EV,
    KBAR_GPA,
    KCAL_PER_MOL_EV,
    KJ_PER_MOL_EV,
)
from mtlpar.extract.slopes import Slopes

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Longer steps are not short, and steps of less energy drown in the rounding of float32 positions.
_MAX_STEP_ANGSTROM: Final = 0.3
_MAX_STRAIN: Final = 0.05
_MIN_ENERGY_EV: Final = 2e-3
# Below this share of the work of the forces, their own error would be taken for the stress.
_MIN_SHARE_OF_STRESS: Final = 0.1
# The median is told apart from a wrong unit long before this many steps; fewer prove nothing.
MIN_PAIRS: Final = 30

_MISTAKES: Final = {
    HARTREE_EV: "forces in Hartree/Å beside energies in eV",
    1 / HARTREE_EV: "energies in Hartree beside forces in eV/Å",
    1 / KCAL_PER_MOL_EV: "energies in kcal/mol beside forces in eV/Å",
    KCAL_PER_MOL_EV: "forces in kcal/mol/Å beside energies in eV",
    1 / KJ_PER_MOL_EV: "energies in kJ/mol beside forces in eV/Å",
    KJ_PER_MOL_EV: "forces in kJ/mol/Å beside energies in eV",
    1 / BOHR_ANGSTROM: "forces per bohr beside positions in Å",
    BOHR_ANGSTROM: "positions in bohr beside forces per Å",
    HARTREE_EV / BOHR_ANGSTROM: "forces in Hartree/bohr beside energies in eV",
    BOHR_ANGSTROM / HARTREE_EV: "energies in Hartree and positions in bohr beside forces in eV/Å",
}
_GPA: Final = EV_PER_CUBIC_ANGSTROM_GPA
_MISTAKES_OF_STRESS: Final = {
    1 / _GPA: "numbers in GPa taken as eV/Å^3",
    KBAR_GPA / _GPA: "numbers in kbar taken as eV/Å^3",
    KBAR_GPA: "numbers in kbar taken as GPa",
    _GPA: "numbers in eV/Å^3 taken as GPa",
    _GPA / KBAR_GPA: "numbers in eV/Å^3 taken as kbar",
    1 / KBAR_GPA: "numbers in GPa taken as kbar",
    HARTREE_EV / BOHR_ANGSTROM**3: "numbers in Hartree/bohr^3 taken as eV/Å^3",
}
# Factors closer than this are the same mistake; two of a list never are.
_SAME_FACTOR: Final = 1.08
_RIGHT: Final = (0.6, 1.6)

_GIVEN: Final = "as given"
# What our yz xz xy may be in truth, and where yz, xz and xy are then.
_SHEAR_ORDERS: Final = {
    "xy yz xz (VASP writes them so)": (4, 5, 3),
    "xy xz yz (LAMMPS writes them so)": (5, 4, 3),
    "yz xy xz": (3, 5, 4),
}
_VIRIAL: Final = "virial"


class EnergyWork:
    """Distributions of energy differences over work.

    Attributes:
        forces: dE over the work of the forces, for steps that leave the cell as it is.
        stress: What the forces leave of dE over the work of the stress, for the others, with the
            stress as it is given and under other conventions.
    """

    def __init__(self) -> None:
        """Start without steps."""
        self.forces = Slopes()
        self.stress = {name: Slopes() for name in (_GIVEN, *_SHEAR_ORDERS, _VIRIAL)}

    def add(self, batch: StructureBatch) -> None:
        """Take in the steps between consecutive structures of a batch."""
        if len(batch) < 2:
            return
        steps = _steps(batch)
        still = ~steps.strained
        change, work = steps.energy[still], steps.force_work[still]
        clear = np.maximum(np.abs(change), np.abs(work)) > _MIN_ENERGY_EV
        self.forces.add(change[clear], work[clear])
        if not steps.strained.any():
            return
        left = steps.energy - steps.force_work
        smallest = np.maximum(_MIN_ENERGY_EV, _MIN_SHARE_OF_STRESS * np.abs(steps.force_work))
        for name, work in _works_of_stress(batch, steps):
            clear = steps.strained & (np.maximum(np.abs(left), np.abs(work)) > smallest)
            self.stress[name].add(left[clear], work[clear])

    def merge(self, other: EnergyWork) -> None:
        """Take in the steps of another part of the data."""
        self.forces.merge(other.forces)
        for name, slopes in self.stress.items():
            slopes.merge(other.stress[name])

    def as_dict(self) -> dict[str, Any]:
        """What the manifest keeps: slopes and quartiles, null where rows are no trajectory."""
        return {
            **self.forces.as_dict(at_least=MIN_PAIRS),
            "stress": self.stress[_GIVEN].as_dict(at_least=MIN_PAIRS),
        }

    def to_record(self) -> dict[str, Any]:
        """Everything, as plain values that `from_record` reads."""
        return {
            "forces": self.forces.to_record(),
            "stress": {name: slopes.to_record() for name, slopes in self.stress.items()},
        }

    @classmethod
    def from_record(cls, content: dict[str, Any]) -> EnergyWork:
        """What `to_record` wrote."""
        work = cls()
        work.forces = Slopes.from_record(content["forces"])
        work.stress = {name: Slopes.from_record(one) for name, one in content["stress"].items()}
        return work

    def problem_of_forces(self) -> str | None:
        """What is wrong with energies, forces or positions, if the steps say that anything is."""
        slope = self.forces.quantile(0.5, at_least=MIN_PAIRS)
        if slope is None or _RIGHT[0] < slope < _RIGHT[1]:
            return None
        reasons = ["the sign of forces or energies is wrong"] if slope < 0 else []
        reasons += _same_factors(abs(slope), _MISTAKES)
        why = " and ".join(reasons) or "units of energies and forces do not match"
        return (
            f"energies change {slope:.4g} times as much as the forces say (median over "
            f"{self.forces.count} steps, expected 1): {why}"
        )

    def problem_of_stress(self) -> str | None:
        """What is wrong with the stress, if strained steps say that anything is."""
        found = self.stress[_GIVEN].quartiles(at_least=MIN_PAIRS)
        if found is None or (_RIGHT[0] < found[0] and found[2] < _RIGHT[1]):
            return None
        low, slope, high = found
        why = self._convention_of_stress(slope)
        if why is None and _RIGHT[0] < slope < _RIGHT[1]:
            # Widely spread, but nothing else fits better.
            return None
        return (
            f"energies of strained cells change {slope:.4g} times as much as the stress says "
            f"(median over {self.stress[_GIVEN].count} steps, quartiles {low:.4g} and {high:.4g}, "
            f"expected 1): {why or 'its unit, sign or order is not what was stated'}"
        )

    def _convention_of_stress(self, slope: float) -> str | None:
        """The other convention that explains the steps, if one does."""
        virial = self.stress[_VIRIAL].quartiles(at_least=MIN_PAIRS)
        if virial is not None and all(_is_one(abs(value)) for value in virial):
            sign = "" if virial[1] < 0 else ", tension positive"
            return f"it looks like a virial in eV{sign} (stress times volume)"
        for order in _SHEAR_ORDERS:
            found = self.stress[order].quartiles(at_least=MIN_PAIRS)
            if found is not None and all(map(_is_one, found)):
                return f"what was read as its yz xz xy looks like {order}"
        reasons = ["the sign of the stress is wrong"] if slope < 0 else []
        reasons += _same_factors(abs(slope), _MISTAKES_OF_STRESS)
        return " and ".join(reasons) or None


def _is_one(ratio: float) -> bool:
    return _RIGHT[0] < ratio < _RIGHT[1]


def _same_factors(slope: float, mistakes: dict[float, str]) -> list[str]:
    return [
        f"{text} (slope {factor:.4g})"
        for factor, text in mistakes.items()
        if abs(math.log(slope / factor)) < math.log(_SAME_FACTOR)
    ]


class _Steps(NamedTuple):
    """Steps between neighbouring frames, K of them.

    Attributes:
        first: Frame from which each step goes to the next, (K,).
        energy: Energy differences in eV, (K,).
        force_work: Work of the forces in eV, (K,).
        strain: Symmetric strain, (K, 3, 3).
        strained: Whether the cell changes and both frames have a stress, (K,).
    """

    first: IndexArray
    energy: FloatArray
    force_work: FloatArray
    strain: FloatArray
    strained: BoolArray


def _steps(batch: StructureBatch) -> _Steps:
    """All usable steps of a batch."""
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
    strained = np.abs(strain).max(axis=(1, 2), initial=0.0) > 1e-7
    stress = batch.has("stress")
    usable &= ~strained | (stress[first] & stress[first + 1])
    energy = batch.energy[first + 1] - batch.energy[first]
    return _Steps(*(rows[usable] for rows in (first, energy, by_forces, strain, strained)))


def _neighbours(batch: StructureBatch) -> IndexArray:
    """Rows whose next row may be the next frame of the same system."""
    columns = (batch.group, batch.num_atoms, batch.charge, batch.spin)
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    labelled = batch.has("energy") & batch.has("forces")
    same &= labelled[1:] & labelled[:-1]
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


def _works_of_stress(batch: StructureBatch, steps: _Steps) -> Iterator[tuple[str, FloatArray]]:
    """Work of the stress in eV of each step, as given and if it followed other conventions."""
    volume = np.abs(np.linalg.det(batch.cell.astype(np.float64)))
    stress = batch.stress.astype(np.float64)

    def work(six: FloatArray) -> FloatArray:
        mean = 0.5 * (six[steps.first] + six[steps.first + 1])
        xx, yy, zz, yz, xz, xy = mean.T
        strain = steps.strain
        return np.asarray(
            xx * strain[:, 0, 0]
            + yy * strain[:, 1, 1]
            + zz * strain[:, 2, 2]
            + 2 * (yz * strain[:, 1, 2] + xz * strain[:, 0, 2] + xy * strain[:, 0, 1])
        )

    by_volume = volume[:, None] * stress
    yield _GIVEN, work(by_volume)
    for order, (yz, xz, xy) in _SHEAR_ORDERS.items():
        yield order, work(by_volume[:, [0, 1, 2, yz, xz, xy]])
    yield _VIRIAL, work(stress)
