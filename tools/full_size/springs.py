"""Structures whose atoms hang on springs, many at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_STIFFNESS_EV: Final = 4.0
_AMPLITUDE_ANGSTROM: Final = 0.06
_SPACING_ANGSTROM: Final = 1.5
_CRYSTAL_SPACING_ANGSTROM: Final = 2.6
# Up to bismuth, without noble gases and what is rare in crystals.
_ELEMENTS: Final = [number for number in range(1, 84) if number not in {2, 10, 18, 36, 43, 54, 61}]
_PER_ATOM_EV: Final = {1: -13.6, 6: -1030.0, 7: -1486.0, 8: -2043.0}


@dataclass(frozen=True, slots=True)
class Frames:
    """F structures of the same N atoms.

    Attributes:
        numbers: Atomic numbers, (N,).
        positions: Å, (F, N, 3).
        energy: eV, (F,).
        forces: eV/Å, (F, N, 3), which sum to zero.
    """

    numbers: IntArray
    positions: FloatArray
    energy: FloatArray
    forces: FloatArray


def draw_numbers(rng: np.random.Generator, size: int) -> IntArray:
    """Atomic numbers of an organic molecule, (size,)."""
    return np.sort(rng.choice([1, 6, 7, 8], size, p=[0.5, 0.3, 0.1, 0.1]))[::-1].copy()


def draw_frames(rng: np.random.Generator, numbers: IntArray, count: int) -> Frames:
    """Displace the atoms of a molecule, on springs.

    Args:
        rng: Where displacements come from.
        numbers: Atomic numbers, (N,).
        count: How many structures.
    """
    atoms_ev = sum(_PER_ATOM_EV[number] for number in numbers.tolist())
    return _displace(rng, numbers, _SPACING_ANGSTROM, count, atoms_ev)


def draw_crystals(rng: np.random.Generator, size: int, count: int) -> tuple[Frames, float]:
    """Displace the atoms of a crystal in a cubic cell, on springs.

    Args:
        rng: Where elements and displacements come from.
        size: Atoms in the cell.
        count: How many structures.

    Returns:
        The structures, and the edge of the cell in Å.
    """
    [numbers] = draw_elements(rng, size, 1)
    frames = _displace(rng, numbers, _CRYSTAL_SPACING_ANGSTROM, count, -4.0 * size)
    return frames, _side(size) * _CRYSTAL_SPACING_ANGSTROM


def draw_elements(rng: np.random.Generator, size: int, count: int) -> IntArray:
    """Atomic numbers of crystals of up to three elements each, (count, size)."""
    elements = np.sort(rng.choice(_ELEMENTS, (count, 3)), axis=1)
    return np.take_along_axis(elements, rng.integers(0, 3, (count, size)), axis=1)


def _side(size: int) -> int:
    return int(np.ceil(size ** (1 / 3) - 1e-9))


def _displace(
    rng: np.random.Generator, numbers: IntArray, spacing: float, count: int, atoms_ev: float
) -> Frames:
    size = len(numbers)
    grid = np.argwhere(np.ones((_side(size),) * 3))[:size] * spacing
    moved = rng.normal(scale=_AMPLITUDE_ANGSTROM, size=(count, size, 3))
    moved -= moved.mean(axis=1, keepdims=True)
    energy = atoms_ev + _STIFFNESS_EV / 2 * (moved**2).sum(axis=(1, 2))
    return Frames(numbers, grid + moved, energy, -_STIFFNESS_EV * moved)
