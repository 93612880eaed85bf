"""Made-up structures of a given size and density, for counting and timing."""

from __future__ import annotations

import numpy as np

from mtlpar.core.structures import StructureBatch

_ELEMENTS = (1, 6, 7, 8)
_JITTER = 0.15


def make_structures(
    count: int, *, atoms: int, seed: int, spacing_angstrom: float = 2.0
) -> StructureBatch:
    """Clusters of atoms on a disturbed simple cubic grid, with random labels.

    A spacing of 2 Å gives 15-atom clusters about as many neighbours within 5 Å as molecules have;
    a wider one gives fewer.

    Args:
        count: Number of structures.
        atoms: Atoms of each.
        seed: Seed of positions, species and labels.
        spacing_angstrom: Distance between grid points.
    """
    rng = np.random.default_rng(seed)
    side = int(np.ceil(atoms ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    jitter = rng.uniform(-_JITTER, _JITTER, size=(count, atoms, 3))
    positions = spacing_angstrom * (grid[None, :atoms] + jitter)
    return StructureBatch.from_labels(
        num_atoms=np.full(count, atoms),
        atomic_numbers=rng.choice(_ELEMENTS, count * atoms),
        positions=positions.reshape(-1, 3),
        energy=rng.normal(size=count),
        forces=rng.normal(size=(count * atoms, 3)),
        group=np.arange(count),
    )
