"""A damped pair potential that stands for the dispersion part of an energy."""

from __future__ import annotations

from typing import Final

import numpy as np

from .base import FloatArray, IntArray

_C6_EV: Final = {1: 3.9, 6: 28.0, 7: 14.5, 8: 9.4, 16: 80.0, 17: 56.0}
_DAMPING: Final = {1: 1.40, 6: 1.70, 7: 1.55, 8: 1.50, 16: 1.90, 17: 1.85}


def dispersion(numbers: IntArray, positions: FloatArray) -> tuple[float, FloatArray]:
    """Evaluate -sum C6 / (r^6 + R^6) over all pairs and its exact forces.

    Args:
        numbers: Atomic numbers, shape (atoms,).
        positions: Geometry in Å, shape (atoms, 3).

    Returns:
        Energy in eV and forces in eV/Å, shape (atoms, 3).
    """
    strength = np.sqrt(coefficients(numbers))
    radius = np.array([_DAMPING[int(number)] for number in numbers])
    c6 = np.outer(strength, strength)
    np.fill_diagonal(c6, 0.0)
    damping = (radius[:, None] + radius[None]) ** 6
    vectors = positions[:, None] - positions[None]
    squared = np.einsum("ijk,ijk->ij", vectors, vectors)
    denominator = squared**3 + damping
    energy = -0.5 * float((c6 / denominator).sum())
    slope = 6.0 * c6 * squared**2 / denominator**2
    return energy, -np.einsum("ij,ijk->ik", slope, vectors)


def coefficients(numbers: IntArray) -> FloatArray:
    """Return C6 coefficients in eV Å^6, shape (atoms,)."""
    return np.array([_C6_EV[int(number)] for number in numbers])
