"""Molecular geometries: embedding, force-field normal modes and thermal displacements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from .base import FloatArray, IntArray, UnusableDrawError

_KCAL_PER_MOL_EV: Final = 0.0433641043
_BOLTZMANN_EV: Final = 8.617333262e-5
# sqrt(eV / (amu Å^2)) expressed as the energy ħω in eV.
_MODE_ENERGY_EV: Final = 0.0646541
_SOFTEST_MODE_EV: Final = 0.035
_DIFFERENCE_STEP: Final = 0.005
_CLOSEST_FRACTION: Final = 0.62
_SEPARATION: Final = 0.78
_GRID: Final = 2.0**-20

ALPHABETICAL: Final = {1: 3, 6: 0, 7: 4, 8: 5, 16: 6, 17: 1}
"""Sort keys of the elements in the order of their symbols, with carbon first."""


@dataclass(frozen=True)
class Molecule:
    """A molecule at a minimum of the force field.

    Attributes:
        smiles: Canonical SMILES.
        numbers: Atomic numbers, shape (atoms,).
        positions: Geometry in Å, shape (atoms, 3).
        mode_energies: ħω of the vibrations in eV, shape (modes,).
        modes: Displacement in Å per unit of sqrt(Å² amu), shape (modes, atoms, 3).
    """

    smiles: str
    numbers: IntArray
    positions: FloatArray
    mode_energies: FloatArray
    modes: FloatArray


def conformers(smiles: str, rng: np.random.Generator, *, count: int) -> list[Molecule]:
    """Embed a molecule and returns minima of its force field with their normal modes.

    Atoms are sorted by element, carbon first and then in the order of the symbols, so that
    isomers share one order of atoms.

    Args:
        smiles: The molecule.
        rng: Source of the random numbers.
        count: Largest number of conformers.

    Raises:
        UnusableDrawError: The molecule cannot be embedded or the force field does not know it.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    mol = sorted_by_element(Chem.AddHs(Chem.MolFromSmiles(smiles)))
    ids = list(
        rdDistGeom.EmbedMultipleConfs(
            mol, numConfs=count, randomSeed=int(rng.integers(1, 2**31 - 1))
        )
    )
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    if not ids or properties is None:
        raise UnusableDrawError(f"{smiles} cannot be embedded or has no force-field parameters")
    numbers = atomic_numbers(mol)
    found: list[Molecule] = []
    for conformer in ids:
        rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, confId=conformer).Minimize(
            maxIts=2000, energyTol=1e-8
        )
        positions = np.array(mol.GetConformer(conformer).GetPositions())
        gradient = partial(_force_field_gradient, mol, properties, conformer)
        energies, modes = _normal_modes(gradient, positions, _masses(numbers))
        found.append(Molecule(smiles, numbers, positions, energies, modes))
    return found


def sorted_by_element(mol: Any) -> Any:
    """An RDKit molecule with its atoms grouped by element."""
    from rdkit import Chem

    order = sorted(
        range(mol.GetNumAtoms()),
        key=lambda index: (ALPHABETICAL[mol.GetAtomWithIdx(index).GetAtomicNum()], index),
    )
    return Chem.RenumberAtoms(mol, order)


def atomic_numbers(mol: Any) -> IntArray:
    """The atomic numbers of an RDKit molecule, shape (atoms,)."""
    return np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)


def thermal_displacement(
    molecule: Molecule, rng: np.random.Generator, *, temperature: float
) -> FloatArray:
    """Draw displacements from the quantum-mechanical harmonic distribution.

    The zero-point motion is part of it, which is what gives stiff bonds realistic forces.

    Args:
        molecule: Molecule with normal modes.
        rng: Source of the random numbers.
        temperature: Temperature in K.

    Returns:
        Displacements in Å, shape (atoms, 3).
    """
    quantum = molecule.mode_energies
    occupation = 0.5 / np.tanh(0.5 * quantum / (_BOLTZMANN_EV * temperature))
    # <q²> = ħ/ω (n + 1/2), with ħ/ω = (ħω)/ω² and ω² = (ħω / unit)².
    variance = occupation * _MODE_ENERGY_EV**2 / quantum
    amplitudes = rng.normal(size=len(quantum)) * np.sqrt(variance)
    return np.asarray(np.einsum("m,mak->ak", amplitudes, molecule.modes))


def displaced_geometries(
    molecule: Molecule,
    center: FloatArray,
    rng: np.random.Generator,
    *,
    count: int,
    temperatures: tuple[float, float],
) -> list[FloatArray]:
    """Draw non-equilibrium geometries in which no two atoms collide.

    Args:
        molecule: Molecule with normal modes.
        center: Geometry to displace from, in Å, shape (atoms, 3).
        rng: Source of the random numbers.
        count: Number of geometries.
        temperatures: Range in K from which each temperature is drawn.

    Returns:
        Geometries in Å, each of shape (atoms, 3).

    Raises:
        UnusableDrawError: Nearly all drawn geometries have colliding atoms.
    """
    found: list[FloatArray] = []
    for _ in range(6 * count):
        temperature = rng.uniform(*temperatures)
        positions = center + thermal_displacement(molecule, rng, temperature=temperature)
        if closest_contact(molecule.numbers, positions) > _CLOSEST_FRACTION:
            found.append(on_grid(positions))
        if len(found) == count:
            return found
    raise UnusableDrawError(f"{molecule.smiles}: the displaced atoms collide")


def placed_beside(
    numbers: IntArray,
    positions: FloatArray,
    guest: tuple[IntArray, FloatArray],
    rng: np.random.Generator,
) -> tuple[IntArray, FloatArray]:
    """Put a second molecule beside a first one at about van-der-Waals distance.

    Args:
        numbers: Atomic numbers of the first molecule, shape (atoms,).
        positions: Its geometry in Å, shape (atoms, 3).
        guest: Atomic numbers and geometry of the second one.
        rng: Source of the random numbers.

    Returns:
        Atomic numbers and geometry of the pair, sorted by element.
    """
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    rotated = guest[1] @ random_rotation(rng)
    host = positions - positions.mean(axis=0)
    distance = 1.5
    while True:
        moved = rotated - rotated.mean(axis=0) + distance * direction
        gaps = np.linalg.norm(host[:, None] - moved[None], axis=-1)
        radii = _contact_radii(numbers)[:, None] + _contact_radii(guest[0])[None]
        if (gaps / radii).min() > _SEPARATION:
            break
        distance += 0.1
    both = np.concatenate([numbers, guest[0]])
    order = sorted(range(len(both)), key=lambda index: (ALPHABETICAL[int(both[index])], index))
    return both[order], np.concatenate([host, moved])[order]


def random_rotation(rng: np.random.Generator) -> FloatArray:
    """Draw a rotation matrix, shape (3, 3)."""
    matrix, triangle = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix = matrix * np.sign(np.diag(triangle))
    return np.asarray(matrix * np.sign(np.linalg.det(matrix)))


def closest_contact(numbers: IntArray, positions: FloatArray) -> float:
    """The smallest distance in units of the sum of the covalent radii."""
    if len(numbers) < 2:
        return float("inf")
    radii = covalent_radii(numbers)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    upper = np.triu_indices(len(numbers), 1)
    return float((distances / (radii[:, None] + radii[None]))[upper].min())


def covalent_radii(numbers: IntArray) -> FloatArray:
    """Return covalent radii in Å, shape (atoms,)."""
    from ase.data import covalent_radii as table

    return np.asarray(table[numbers], dtype=np.float64)


def on_grid(values: FloatArray, spacing: float = _GRID) -> FloatArray:
    """Round to a binary grid, which keeps compressed files small without hurting accuracy."""
    return np.round(values / spacing) * spacing


def _contact_radii(numbers: IntArray) -> FloatArray:
    from ase.data.vdw import vdw_radii

    return np.asarray(vdw_radii[numbers], dtype=np.float64)


def _masses(numbers: IntArray) -> FloatArray:
    from ase.data import atomic_masses

    return np.asarray(atomic_masses[numbers], dtype=np.float64)


def _force_field_gradient(
    mol: Any, properties: Any, conformer: int, positions: FloatArray
) -> FloatArray:
    """The gradient in eV/Å, flattened."""
    from rdkit.Chem import rdForceFieldHelpers

    mol.GetConformer(conformer).SetPositions(np.ascontiguousarray(positions))
    # CalcGrad scales its result when it is given positions, and on a field used before.
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, confId=conformer)
    return np.array(field.CalcGrad()) * _KCAL_PER_MOL_EV


def _normal_modes(
    gradient: Callable[[FloatArray], FloatArray], positions: FloatArray, masses: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Diagonalize the Hessian of the force field, leaving out translation and rotation."""
    size = positions.size
    hessian = np.empty((size, size))
    for index in range(size):
        shift = np.zeros_like(positions)
        shift.flat[index] = _DIFFERENCE_STEP
        difference = gradient(positions + shift) - gradient(positions - shift)
        hessian[index] = difference / (2 * _DIFFERENCE_STEP)
    weights = np.repeat(masses, 3) ** -0.5
    weighted = 0.5 * (hessian + hessian.T) * np.outer(weights, weights)
    rigid = _rigid_motions(positions, masses)
    free = np.eye(size) - rigid @ rigid.T
    values, vectors = np.linalg.eigh(free @ weighted @ free + 1e6 * rigid @ rigid.T)
    internal = values < 1e5
    energies = _MODE_ENERGY_EV * np.sqrt(np.abs(values[internal]))
    modes = (vectors[:, internal] * weights[:, None]).T.reshape(-1, len(masses), 3)
    return np.maximum(energies, _SOFTEST_MODE_EV), modes


def _rigid_motions(positions: FloatArray, masses: FloatArray) -> FloatArray:
    """An orthonormal basis of mass-weighted rigid motions, shape (3 atoms, 5 or 6)."""
    centered = positions - np.average(positions, axis=0, weights=masses)
    motions = [np.tile(axis, (len(masses), 1)) for axis in np.eye(3)]
    motions += [np.cross(axis, centered) for axis in np.eye(3)]
    weighted = np.array([(motion * np.sqrt(masses)[:, None]).ravel() for motion in motions]).T
    left, singular, _ = np.linalg.svd(weighted, full_matrices=False)
    return np.asarray(left[:, singular > 1e-3 * singular[0]])
