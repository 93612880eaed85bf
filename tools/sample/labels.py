"""Energies, forces and virials from the extended tight-binding methods of tblite."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

import numpy as np

from mtlpar.core.units import BOHR_ANGSTROM, HARTREE_EV

from .base import FloatArray, IntArray, SampleError, UnusableDrawError

logger = logging.getLogger(__name__)

Method = Literal["GFN1-xTB", "GFN2-xTB", "IPEA1-xTB"]

_LARGEST_FORCE: Final = 40.0
_LARGEST_ENERGY_PER_ATOM: Final = 500.0
_ACCURACY: Final = 0.2
_MOLECULE_ITERATIONS: Final = 150
_CRYSTAL_ITERATIONS: Final = 90
_CRYSTAL_TEMPERATURE_HARTREE: Final = 1000.0 * 3.166808578545117e-06

_UNPAIRED_ELECTRONS: Final = {1: 1, 6: 2, 7: 3, 8: 2, 16: 2, 17: 1}


@dataclass(frozen=True)
class Label:
    """Result of one self-consistent calculation.

    Attributes:
        energy: Total energy in eV.
        forces: Minus the gradient of the energy in eV/Å, shape (atoms, 3).
        virial: Derivative of the energy with respect to strain in eV, shape (3, 3).
        charges: Atomic partial charges in e, shape (atoms,).
        orbitals: Orbital energies in eV, ascending, shape (orbitals,).
        occupied: Number of occupied orbitals.
        dipole: Dipole moment in e·Å, shape (3,); meaningless in a crystal.
        quadrupole: Quadrupole moment (xx, yy, zz, xy, xz, yz) in e·Å², shape (6,).
    """

    energy: float
    forces: FloatArray
    virial: FloatArray
    charges: FloatArray
    orbitals: FloatArray
    occupied: int
    dipole: FloatArray
    quadrupole: FloatArray

    @property
    def gap(self) -> float:
        """Distance between the highest occupied and the lowest empty orbital in eV."""
        if self.occupied >= len(self.orbitals):
            return 0.0
        return float(max(0.0, self.orbitals[self.occupied] - self.orbitals[self.occupied - 1]))


class Surface:
    """Potential-energy surface of one set of atoms at one level of theory.

    Consecutive calls start from the electronic state of the call before, so that the order
    of the calls belongs to the definition of a reproducible result.
    """

    def __init__(self, method: Method, numbers: IntArray, *, solvent: str | None = None) -> None:
        """Prepare the surface.

        Args:
            method: Level of theory.
            numbers: Atomic numbers, shape (atoms,).
            solvent: Implicit solvent of a molecule, by the name that ALPB has for it.
        """
        self.method = method
        self.solvent = solvent
        self.numbers = np.asarray(numbers, dtype=np.int64)
        self._calculator: Any = None
        self._state: Any = None

    def __call__(self, positions: FloatArray, lattice: FloatArray | None = None) -> Label:
        """Compute the label of one geometry.

        Args:
            positions: Cartesian positions in Å, shape (atoms, 3).
            lattice: Lattice vectors as rows in Å, shape (3, 3), or None for a molecule.

        Raises:
            UnusableDrawError: The calculation did not converge or gave an absurd value.
        """
        tblite = _tblite()
        try:
            calculator = self._prepared(positions, lattice)
            state = calculator.singlepoint(self._state)
            values = state.dict()
        except (tblite.TBLiteRuntimeError, tblite.TBLiteValueError) as error:
            self._state = None
            raise UnusableDrawError(f"{self.method} gave no energy: {error}") from error
        self._state = state
        return _checked(_label(values), self.method)

    def _prepared(self, positions: FloatArray, lattice: FloatArray | None) -> Any:
        scaled = np.ascontiguousarray(positions) / BOHR_ANGSTROM
        cell = None if lattice is None else np.ascontiguousarray(lattice) / BOHR_ANGSTROM
        if self._calculator is None:
            periodic = None if cell is None else np.array([True, True, True])
            self._calculator = _tblite().Calculator(
                self.method, self.numbers, scaled, lattice=cell, periodic=periodic
            )
            _configure(self._calculator, crystal=cell is not None)
            if self.solvent is not None:
                self._calculator.add("alpb-solvation", self.solvent)
        else:
            self._calculator.update(scaled, cell)
        return self._calculator


def label_frames(
    method: Method,
    numbers: IntArray,
    geometries: Sequence[FloatArray],
    *,
    solvent: str | None = None,
) -> list[tuple[FloatArray, Label]]:
    """Label several geometries of one molecule.

    Args:
        method: Level of theory.
        numbers: Atomic numbers, shape (atoms,).
        geometries: Geometries in Å, each of shape (atoms, 3).
        solvent: Implicit solvent, by the name that ALPB has for it.

    Returns:
        The geometries with their labels, less those whose calculation failed.
    """
    surface = Surface(method, numbers, solvent=solvent)
    labelled: list[tuple[FloatArray, Label]] = []
    for positions in geometries:
        try:
            labelled.append((positions, surface(positions)))
        except UnusableDrawError as reason:
            logger.debug("dropped a geometry: %s", reason)
    return labelled


@cache
def free_atom_energy(method: Method, number: int) -> float:
    """The energy of a free atom in eV."""
    calculator = _tblite().Calculator(
        method, np.array([number]), np.zeros((1, 3)), uhf=_UNPAIRED_ELECTRONS.get(number, 0)
    )
    _configure(calculator, crystal=False)
    return float(calculator.singlepoint().get("energy")) * HARTREE_EV


def _configure(calculator: Any, *, crystal: bool) -> None:
    calculator.set("verbosity", 0)
    calculator.set("accuracy", _ACCURACY)
    calculator.set("max-iter", _CRYSTAL_ITERATIONS if crystal else _MOLECULE_ITERATIONS)
    if crystal:
        # A warm electron gas lets small-gap cells converge at the Gamma point.
        calculator.set("temperature", _CRYSTAL_TEMPERATURE_HARTREE)


def _label(values: dict[str, Any]) -> Label:
    occupations = np.asarray(values["orbital-occupations"]).ravel()
    return Label(
        energy=float(values["energy"]) * HARTREE_EV,
        forces=-np.asarray(values["gradient"]) * (HARTREE_EV / BOHR_ANGSTROM),
        virial=np.asarray(values["virial"]) * HARTREE_EV,
        charges=np.asarray(values["charges"]),
        orbitals=np.asarray(values["orbital-energies"]).ravel() * HARTREE_EV,
        occupied=round(float(occupations.sum()) / 2.0),
        dipole=np.asarray(values["dipole"]) * BOHR_ANGSTROM,
        quadrupole=np.asarray(values["quadrupole"])[[0, 2, 5, 1, 3, 4]] * BOHR_ANGSTROM**2,
    )


def _checked(label: Label, method: str) -> Label:
    largest = float(np.abs(label.forces).max())
    if not np.isfinite(label.energy) or not np.isfinite(largest):
        raise UnusableDrawError(f"{method} gave a value that is not finite")
    if largest > _LARGEST_FORCE:
        raise UnusableDrawError(f"{method} gave a force of {largest:.1f} eV/Å")
    if abs(label.energy) > _LARGEST_ENERGY_PER_ATOM * len(label.forces):
        raise UnusableDrawError(f"{method} gave an energy of {label.energy:.1f} eV")
    return label


def prepare_tblite() -> None:
    """Load tblite.

    Raises:
        SampleError: tblite is missing.
    """
    _tblite()


@dataclass(frozen=True)
class _Tblite:
    Calculator: Any
    TBLiteRuntimeError: type[Exception]
    TBLiteValueError: type[Exception]


@cache
def _tblite() -> _Tblite:
    try:
        from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError
        from tblite.interface import Calculator
    except ImportError as error:
        raise SampleError(
            "Labelling the sample needs the package tblite, which is not installed; "
            "install it with: pip install --editable '.[sample]'"
        ) from error
    return _Tblite(Calculator, TBLiteRuntimeError, TBLiteValueError)
