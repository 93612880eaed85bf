"""Quasi-Newton relaxation of molecules and of crystals with their cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from .base import FloatArray
from .labels import Label, Surface

_ATOM_STIFFNESS: Final = 20.0
_BULK_STIFFNESS: Final = 1.0
_ATOM_STEP: Final = 0.1
_STRAIN_STEP: Final = 0.025
_SMALLEST_CURVATURE: Final = 1e-8


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
        return _volume(self.cell)


def relax_molecule(
    surface: Surface, positions: FloatArray, *, force: float = 0.05, steps: int = 80
) -> Frame:
    """Relax a molecule.

    Args:
        surface: Surface to go down on.
        positions: Start geometry in Å, shape (atoms, 3).
        force: Largest force component in eV/Å at which to stop.
        steps: Largest number of steps; the last geometry is returned even if it still moves.

    Raises:
        UnusableDrawError: The surface has no energy at some geometry on the way.
    """
    inverse = np.eye(positions.size) / _ATOM_STIFFNESS
    label = surface(positions)
    for _ in range(steps):
        if np.abs(label.forces).max() < force:
            break
        gradient = -label.forces.ravel()
        step = _limited(-inverse @ gradient, _ATOM_STEP)
        positions = positions + step.reshape(-1, 3)
        label = surface(positions)
        inverse = _bfgs(inverse, step, -label.forces.ravel() - gradient)
    return Frame(positions, None, label)


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
    frame = Frame(positions, lattice, surface(positions, lattice))
    frames = [frame]
    volume = _volume(lattice)
    # Strain is scaled to a length so that one Hessian serves atoms and cell.
    length = volume ** (1.0 / 3.0)
    inverse = np.diag(
        np.concatenate(
            [
                np.full(positions.size, 1.0 / _ATOM_STIFFNESS),
                np.full(9, length**2 / (3.0 * _BULK_STIFFNESS * volume)),
            ]
        )
    )
    while len(frames) < steps and not settled(frame):
        gradient = _gradient(frame, length)
        step = -inverse @ gradient
        step[:-9] = _limited(step[:-9], _ATOM_STEP)
        step[-9:] = _limited(step[-9:], _STRAIN_STEP * length)
        frame = _moved(surface, frame, step, length)
        frames.append(frame)
        inverse = _bfgs(inverse, step, _gradient(frame, length) - gradient)
    return frames


def _moved(surface: Surface, frame: Frame, step: FloatArray, length: float) -> Frame:
    deformation = np.eye(3) + step[-9:].reshape(3, 3) / length
    positions = (frame.positions + step[:-9].reshape(-1, 3)) @ deformation
    lattice = frame.cell @ deformation
    return Frame(positions, lattice, surface(positions, lattice))


def _gradient(frame: Frame, length: float) -> FloatArray:
    symmetric = 0.5 * (frame.label.virial + frame.label.virial.T)
    return np.concatenate([-frame.label.forces.ravel(), symmetric.ravel() / length])


def _bfgs(inverse: FloatArray, step: FloatArray, change: FloatArray) -> FloatArray:
    curvature = float(step @ change)
    if curvature < _SMALLEST_CURVATURE:
        return inverse
    mixed = np.outer(inverse @ change, step) / curvature
    growth = (1.0 + change @ inverse @ change / curvature) / curvature
    return np.asarray(inverse - mixed - mixed.T + growth * np.outer(step, step))


def _limited(step: FloatArray, largest: float) -> FloatArray:
    return step * min(1.0, largest / max(float(np.abs(step).max()), 1e-12))


def _volume(lattice: FloatArray) -> float:
    return float(abs(np.linalg.det(lattice)))
