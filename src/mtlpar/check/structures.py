"""Structures to test on: molecules, crystals, and cells that are hard to get right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii

_SHAKE_ANGSTROM = 0.08
# Closest distance as a fraction of the sum of covalent radii.
_CLOSEST = 0.9


def sample_structures(elements: Sequence[int]) -> dict[str, Atoms]:
    """Shaken structures of every kind of periodicity, made of the given elements.

    Args:
        elements: Atomic numbers to use; each kind of site gets one, in turn.
    """
    thin = Atoms("SiO", [[0, 0, 0], [0.5, 0.5, 4]], cell=[2.5, 2.5, 8], pbc=True)
    slab = Atoms("C2H", [[0, 0, 0], [1.5, 0, 0], [0, 0, 1.5]], cell=[3, 3, 20], pbc=[1, 1, 0])
    oblique = Atoms(
        "SiOC",
        [[0, 0, 0], [1.6, 0.4, 0.2], [0.3, 1.7, 1.1]],
        cell=[[3.1, 0, 0], [1.4, 3.3, 0], [-0.9, 0.8, 3.6]],
        pbc=True,
    )
    shapes = {
        "molecule": molecule("CH3CH2OH"),  # type: ignore[no-untyped-call]
        "crystal": bulk("NaCl", "rocksalt", a=5.5, cubic=True),
        "one-atom cell": bulk("Cu", "fcc", a=3.5),
        "oblique cell": oblique,
        "thin cell": thin,
        "slab": slab,
    }
    return {
        name: shaken(of_elements(atoms, elements), seed)
        for seed, (name, atoms) in enumerate(shapes.items())
    }


def of_elements(atoms: Atoms, elements: Sequence[int]) -> Atoms:
    """The same arrangement with each species replaced by one of ``elements``, in turn.

    Large atoms get more room, so that none sits inside another.
    """
    species = sorted(set(atoms.numbers.tolist()))
    table = {old: elements[index % len(elements)] for index, old in enumerate(species)}
    numbers = np.array([table[number] for number in atoms.numbers.tolist()])
    distance = atoms.get_all_distances(  # type: ignore[no-untyped-call]
        mic=bool(atoms.pbc.any())
    )
    np.fill_diagonal(distance, np.inf)
    radius = covalent_radii[numbers]
    scale = max(1.0, float(((radius[:, None] + radius) / distance).max()) * _CLOSEST)
    return Atoms(numbers, scale * atoms.positions, cell=scale * atoms.cell.array, pbc=atoms.pbc)


def shaken(atoms: Atoms, seed: int) -> Atoms:
    """A copy with atoms moved at random, so that no symmetry hides an error."""
    rng = np.random.default_rng(seed)
    return moved(atoms, rng.normal(0, _SHAKE_ANGSTROM, (len(atoms), 3)))


def moved(atoms: Atoms, shift_angstrom: npt.ArrayLike) -> Atoms:
    """A copy with atoms moved by (N, 3) or (3,)."""
    return Atoms(
        atoms.numbers, atoms.positions + np.asarray(shift_angstrom), cell=atoms.cell, pbc=atoms.pbc
    )


def transformed(atoms: Atoms, matrix: npt.NDArray[np.float64]) -> Atoms:
    """A copy with every position and lattice vector r replaced by M r, M (3, 3)."""
    return Atoms(
        atoms.numbers,
        atoms.positions @ matrix.T,
        cell=atoms.cell.array @ matrix.T,
        pbc=atoms.pbc,
    )
