"""Relaxation of molecules and of crystals with their cell, by ASE's optimisers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from .base import FloatArray
from .labels import Label, Surface

_ATOM_STIFFNESS: Final = 20.0
_LARGEST_STEP: Final = 0.1


@dataclass(frozen=True)
class Frame:
    """One labelled geometry.

    Attributes:
        positions: Cartesian positions in Å, shape (atoms, 3).
        lattice: Lattice vectors as rows in Å, shape (3, 3), or None for a molecule.
        label: Energy, forces and virial.
    """

    positions: FloatArray
    lattice: FloatArray | None
    label: Label

    @property
    def cell(self) -> FloatArray:
        """Lattice vectors of a crystal as rows in Å, shape (3, 3)."""
        if self.lattice is None:
            raise ValueError("a molecule has no cell; this frame was expected to be a crystal")
        return self.lattice

    @property
    def volume(self) -> float:
        """Volume of the cell of a crystal in Å^3."""
        return float(abs(np.linalg.det(self.cell)))


class SurfaceCalculator(Calculator):
    """A surface as a calculator of ASE, which keeps the label of the last geometry."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012
    label_of_last: Label

    def __init__(self, surface: Surface) -> None:
        """Wrap a surface; several calculators may share one."""
        super().__init__()
        self.surface = surface

    def calculate(
        self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        """Label the geometry.

        Raises:
            UnusableDrawError: The surface has no energy there.
        """
        super().calculate(atoms, properties, system_changes)
        lattice = atoms.cell.array.copy() if atoms.pbc.all() else None
        label = self.surface(atoms.positions.copy(), lattice)
        self.label_of_last = label
        self.results = {"energy": label.energy, "forces": label.forces}
        if lattice is not None:
            virial = 0.5 * (label.virial + label.virial.T) / atoms.get_volume()
            self.results["stress"] = virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def frame_of(atoms: Atoms) -> Frame:
    """The last labelled geometry of atoms with a `SurfaceCalculator`."""
    lattice = atoms.cell.array.copy() if atoms.pbc.all() else None
    return Frame(atoms.positions.copy(), lattice, atoms.calc.label_of_last)


def relax_molecule(
    surface: Surface, positions: FloatArray, *, force: float = 0.05, steps: int = 80
) -> Frame:
    """Relax a molecule.

    Args:
        surface: Surface to go down on.
        positions: Start geometry in Å, shape (atoms, 3).
        force: Largest force on an atom in eV/Å at which to stop.
        steps: Largest number of steps; the last geometry is returned even if it still moves.

    Raises:
        UnusableDrawError: The surface has no energy at some geometry on the way.
    """
    atoms = Atoms(surface.numbers, positions, calculator=SurfaceCalculator(surface))
    BFGS(atoms, logfile=None, maxstep=_LARGEST_STEP, alpha=_ATOM_STIFFNESS).run(force, steps)
    return frame_of(atoms)


def relax_crystal(
    surface: Surface,
    positions: FloatArray,
    lattice: FloatArray,
    *,
    settled: Callable[[Frame], bool],
    steps: int,
) -> list[Frame]:
    """Relax the positions and the cell of a crystal together.

    Args:
        surface: Surface to go down on.
        positions: Start positions in Å, shape (atoms, 3).
        lattice: Start lattice vectors as rows in Å, shape (3, 3).
        settled: Says of a frame that it is the last one wanted.
        steps: Largest number of frames.

    Returns:
        All frames of the way, at least one.

    Raises:
        UnusableDrawError: The surface has no energy at the start geometry or on the way.
    """
    calculator = SurfaceCalculator(surface)
    atoms = Atoms(surface.numbers, positions, cell=lattice, pbc=True, calculator=calculator)
    with_cell: Any = FrechetCellFilter(atoms)
    optimizer = BFGS(with_cell, logfile=None, maxstep=_LARGEST_STEP, alpha=_ATOM_STIFFNESS)
    frames = []
    # A force of zero is never reached: the caller says when it is enough.
    for _ in optimizer.irun(fmax=0.0, steps=steps - 1):
        frames.append(frame_of(atoms))
        if settled(frames[-1]):
            break
    return frames
