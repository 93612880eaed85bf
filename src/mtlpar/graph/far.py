"""What of a structure no cutoff sees: how far apart its parts are, and how they are turned.

Atoms further apart than the cutoff of a neighbour list leave no trace in it. Two numbers per
structure do not depend on its place, orientation or order of atoms, and see them all: of open
structures the second moments of the atoms, of periodic ones a sum over long waves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.ragged import ragged_arange, split_by_load
from mtlpar.core.structures import StructureBatch
from mtlpar.graph.cells import complete

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]

# Wave vectors up to this length: one pair for each 100 Å^3 of the cell.
_SHORTEST_PER_ANGSTROM: Final = 1.3
# Larger cells have longer waves only, 2000 pairs of them.
_LARGE_CUBIC_ANGSTROM: Final = 2e5
# Waves with less than this part of the largest k² count alike: a range of 8 Å.
_LONG: Final = 0.01
# Size of the sum over waves beside that of the cell.
_STRENGTH: Final = 100.0
# Open directions of slabs and wires repeat after this length, further than the waves reach.
_OPEN_ANGSTROM: Final = 100.0
# Pairs of waves and atoms that are looked at together.
_CHUNK: Final = 200_000


def extents(batch: StructureBatch, weight: FloatArray) -> FloatArray:
    """Sizes of structures without any periodic direction: of their gyration tensors M.

    Args:
        batch: The structures.
        weight: Weight of each atom, (A,).

    Returns:
        (tr M)^(1/2) + (tr M²)^(1/4) in Å; zero for periodic structures, (S,).
    """
    owner = np.repeat(np.arange(len(batch)), batch.num_atoms)
    total = np.bincount(owner, weight, len(batch))
    positions = batch.positions.astype(np.float64)
    centre = [np.bincount(owner, weight * along, len(batch)) / total for along in positions.T]
    away = [along - middle[owner] for along, middle in zip(positions.T, centre, strict=True)]
    trace, square = np.zeros(len(batch)), np.zeros(len(batch))
    for first in range(3):
        for second in range(3):
            moment = np.bincount(owner, weight * away[first] * away[second], len(batch)) / total
            square += moment**2
            if first == second:
                trace += moment
    return np.where(batch.pbc.any(axis=1), 0.0, np.sqrt(trace) + square**0.25)


def ripples(batch: StructureBatch, weights: Sequence[FloatArray]) -> list[FloatArray]:
    """Squared structure factors of long waves, summed, with the size of the cell added.

    In real space this is a sum over all pairs and images that falls off over 8 Å, so that neither
    the choice of lattice vectors nor that of an atom's image matters.

    Args:
        batch: The structures.
        weights: Weights q of each atom, (A,) each.

    Returns:
        For each of these (V/N)^(1/3) + (1 + c Σ_k w(k²) |Σ_j q_j exp(i k·r_j)|² / (N V))^(1/2) in
        Å, with w smooth and falling to zero; zero for structures without any periodic direction,
        (S,).
    """
    sizes = [np.zeros(len(batch)) for _ in weights]
    periodic = np.flatnonzero(batch.pbc.any(axis=1))
    if len(periodic) == 0:
        return sizes
    cell = periodic_cells(batch, periodic)
    volume = np.abs((np.cross(cell[:, 0], cell[:, 1]) * cell[:, 2]).sum(axis=1))
    longest = _SHORTEST_PER_ANGSTROM * np.cbrt(np.minimum(1, _LARGE_CUBIC_ANGSTROM / volume))
    structure, waves = _waves(cell, longest)
    part = (waves**2).sum(axis=1) / longest[structure] ** 2
    fall = (1 - part) ** 8 * (1 + 1 / (part + _LONG))
    count = batch.num_atoms[periodic]
    factors = _squared_factors(batch, weights, periodic[structure], waves)
    for size, squared in zip(sizes, factors, strict=True):
        power = np.bincount(structure, fall * squared, len(periodic))
        size[periodic] = np.cbrt(volume / count) + np.sqrt(1 + _STRENGTH * power / (volume * count))
    return sizes


def periodic_cells(batch: StructureBatch, periodic: IndexArray) -> FloatArray:
    """Cells of periodic structures in Å, open directions long and across the others, (P, 3, 3)."""
    repeats = batch.pbc[periodic].astype(np.bool_)
    vectors = np.where(repeats[:, :, None], batch.cell[periodic], 0).astype(np.float64)
    return complete(vectors, repeats, _OPEN_ANGSTROM)


def _squared_factors(
    batch: StructureBatch, weights: Sequence[FloatArray], structure: IndexArray, waves: FloatArray
) -> list[FloatArray]:
    """Squared structure factors of waves, which run through structures of the batch, (K,) each."""
    squared = [np.zeros(len(waves)) for _ in weights]
    positions = batch.positions.astype(np.float64)
    first, count = batch.offsets[structure], batch.num_atoms[structure].astype(np.int64)
    for piece in split_by_load(count, _CHUNK):
        atoms = ragged_arange(first[piece], count[piece])
        vector = np.repeat(waves[piece], count[piece], axis=0)
        phase = sum(positions[atoms, axis] * vector[:, axis] for axis in range(3))
        starts = np.cumsum(count[piece]) - count[piece]
        for turned in (np.cos(phase), np.sin(phase)):
            for total, weight in zip(squared, weights, strict=True):
                total[piece] += np.add.reduceat(weight[atoms] * turned, starts) ** 2
    return squared


def _waves(cell: FloatArray, longest: FloatArray) -> tuple[IndexArray, FloatArray]:
    """Wave vectors of lattices, one of each pair k and -k, without zero.

    Args:
        cell: Lattice vectors in rows, (S, 3, 3).
        longest: Length that they do not reach in 1/Å, (S,).

    Returns:
        Structure (K,) and wave vector in 1/Å (K, 3).
    """
    across = np.cross(cell[:, [1, 2, 0]], cell[:, [2, 0, 1]])
    reciprocal = 2 * np.pi * across / (across[:, 0] * cell[:, 0]).sum(axis=1)[:, None, None]
    # k·a is 2π times the component along that vector, and not longer than |k| |a|.
    lengths = np.linalg.norm(cell, axis=2)
    reach = np.floor(longest[:, None] * lengths / (2 * np.pi)).astype(np.int64)
    width = 2 * reach + 1
    # Numbers below the middle one, which is k = 0, are the partners of those above it.
    half = (width.prod(axis=1) - 1) // 2
    structure = np.repeat(np.arange(len(cell)), half)
    number = ragged_arange(np.zeros(len(cell), np.int64), half)
    waves = np.zeros((len(number), 3))
    for axis in (2, 1, 0):
        component = number % width[structure, axis] - reach[structure, axis]
        number = number // width[structure, axis]
        waves += component[:, None] * reciprocal[structure, axis]
    kept = (waves**2).sum(axis=1) < longest[structure] ** 2
    return structure[kept], waves[kept]
