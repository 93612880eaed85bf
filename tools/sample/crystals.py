"""Hypothetical crystals: prototypes with charge-balanced combinations of elements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, product
from typing import Final

import numpy as np

from .base import FloatArray, IntArray, random_stream
from .prototypes import (
    ANIONS,
    CATIONS,
    COMMON,
    ELECTRONEGATIVITY,
    ELEMENTS,
    PROTOTYPES,
    Prototype,
)

_LARGEST_MISMATCH: Final = 1.22
_SMALLEST_POLARITY: Final = 1.2
_LARGEST_SUBSTITUTION: Final = 1.45
_SUBSTITUTED: Final = 0.5
_COMMON_ROUNDS: Final = 6
_STREAM: Final = 101


@dataclass(frozen=True)
class Species:
    """An element in an oxidation state."""

    element: str
    charge: int
    radius: float


@dataclass(frozen=True)
class CrystalPlan:
    """What to build, cheap to enumerate and to send to another process.

    Attributes:
        prototype: Index into PROTOTYPES.
        species: One species per role, in the order of the roles of the prototype.
        variant: 0 for the ideal cell; larger numbers strain the cell along different paths.
    """

    prototype: int
    species: tuple[Species, ...]
    variant: int = 0


@dataclass(frozen=True)
class Crystal:
    """A periodic structure.

    Attributes:
        prototype: Name of the structure type.
        spacegroup: Number of the space group of the ideal type.
        elements: Element symbols, one per atom.
        numbers: Atomic numbers, shape (atoms,).
        positions: Cartesian positions in Å, shape (atoms, 3).
        lattice: Lattice vectors as rows in Å, shape (3, 3).
        charges: Charge of every element in e, 0 in a pure element.
    """

    prototype: str
    spacegroup: int
    elements: tuple[str, ...]
    numbers: IntArray
    positions: FloatArray
    lattice: FloatArray
    charges: Mapping[str, int]


def crystal_plans(
    seed: int, *, share: float, stream: int, skipped: Collection[str] = ()
) -> Iterator[CrystalPlan]:
    """Enumerate crystals without end.

    All sources see the same crystals in the same order and keep a random share of them, which
    is how two sources come to overlap in part.

    Args:
        seed: Seed of the sample.
        share: Probability that a crystal is kept.
        stream: Number that tells the sources apart.
        skipped: Names of prototypes to leave out.
    """
    order = random_stream(seed, _STREAM)
    keep = random_stream(seed, _STREAM, stream)
    # A small sample must not spread over so many elements that nothing can be learned about any:
    # compounds of common elements come first, several times over, then the others.
    rounds = chain(
        ((variant, True) for variant in range(_COMMON_ROUNDS)),
        ((variant, False) for variant in count()),
    )
    for variant, common in rounds:
        queues = [
            [
                CrystalPlan(number, species, variant)
                for species in _combinations(prototype, common=common)
            ]
            for number, prototype in enumerate(PROTOTYPES)
        ]
        for queue in queues:
            order.shuffle(queue)
        while any(queues):
            for queue in queues:
                if queue:
                    plan = queue.pop()
                    kept = keep.random() < share
                    if kept and PROTOTYPES[plan.prototype].name not in skipped:
                        yield plan


def build_crystal(plan: CrystalPlan, *, enlarged: bool, dilation: float = 1.0) -> Crystal:
    """Build the structure at the cell that the radii of its elements suggest.

    Args:
        plan: What to build.
        enlarged: Builds the supercell of the prototype instead of the primitive cell.
        dilation: Factor on all lengths.
    """
    prototype = PROTOTYPES[plan.prototype]
    species = dict(zip(prototype.roles, plan.species, strict=True))
    constant = dilation * float(np.mean(_lattice_constants(prototype, species)))
    lattice = constant * prototype.cell @ _distortion(plan.variant)
    roles = [role for role, _ in prototype.sites]
    fractional = np.array([site for _, site in prototype.sites])
    if enlarged:
        roles, fractional, lattice = _supercell(roles, fractional, lattice, prototype.enlarge)
    elements = tuple(species[role].element for role in roles)
    return Crystal(
        prototype=prototype.name,
        spacegroup=prototype.spacegroup,
        elements=elements,
        numbers=_numbers(elements),
        positions=fractional @ lattice,
        lattice=lattice,
        charges={item.element: item.charge for item in plan.species},
    )


def grown(crystal: Crystal, *, atoms: int) -> Crystal:
    """The crystal repeated along its shortest lattice vector until it has enough atoms.

    Args:
        crystal: The crystal to repeat.
        atoms: Smallest number of atoms wanted.
    """
    while len(crystal.numbers) < atoms:
        axis = int(np.argmin(np.linalg.norm(crystal.lattice, axis=1)))
        crystal = replace(
            crystal,
            elements=crystal.elements * 2,
            numbers=np.tile(crystal.numbers, 2),
            positions=np.concatenate(
                [crystal.positions, crystal.positions + crystal.lattice[axis]]
            ),
            lattice=crystal.lattice * (1.0 + np.eye(3)[axis])[:, None],
        )
    return crystal


def with_substitutes(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """The crystal with some sites taken by common elements of like charge and size.

    Args:
        crystal: The crystal; a pure element is returned as it is.
        rng: Source of the random numbers.
    """
    elements = np.array(crystal.elements, dtype="<U2")
    charges = dict(crystal.charges)
    for element in sorted(set(crystal.elements)):
        sites = np.flatnonzero(elements == element)
        substitutes = _substitutes(element, crystal.charges[element], set(charges))
        if len(sites) > 1 and substitutes and rng.random() < _SUBSTITUTED:
            substitute = substitutes[rng.integers(len(substitutes))]
            taken = rng.choice(sites, size=int(rng.integers(1, len(sites))), replace=False)
            elements[taken] = substitute
            charges[substitute] = crystal.charges[element]
    return replace(
        crystal,
        elements=tuple(elements.tolist()),
        numbers=_numbers(elements.tolist()),
        charges=charges,
    )


def strained_and_rattled(
    crystal: Crystal, rng: np.random.Generator, *, strain: float, rattle: float
) -> tuple[FloatArray, FloatArray]:
    """Return positions (atoms, 3) and lattice (3, 3) in Å away from the ideal crystal.

    Args:
        crystal: The ideal crystal.
        rng: Source of the random numbers.
        strain: Standard deviation of the strain components.
        rattle: Standard deviation of the displacements in Å.
    """
    tensor = rng.normal(0.0, strain, (3, 3)) * (0.4 + 0.6 * np.eye(3))
    deformation = np.eye(3) + 0.5 * (tensor + tensor.T)
    displaced = crystal.positions + rng.normal(0.0, rattle, crystal.positions.shape)
    return displaced @ deformation, crystal.lattice @ deformation


def _substitutes(element: str, charge: int, present: Collection[str]) -> list[str]:
    """Return common elements of the same charge whose radius is near, none of them present."""
    pool = (CATIONS if charge > 0 else ANIONS).get(charge, {})
    if element not in pool:
        return []
    near = _LARGEST_SUBSTITUTION
    return [
        other
        for other, radius in pool.items()
        if other in COMMON and other not in present and 1 / near < radius / pool[element] < near
    ]


def _numbers(elements: Sequence[str]) -> IntArray:
    from ase.data import atomic_numbers

    return np.array([atomic_numbers[element] for element in elements])


def _combinations(prototype: Prototype, *, common: bool) -> list[tuple[Species, ...]]:
    """Species that the roles may take together: common elements alone, or others among them."""
    pools = [_species_pool(kind) for kind in prototype.roles.values()]
    if common:
        pools = [[item for item in pool if item.element in COMMON] for pool in pools]
    multiplicities = [prototype.multiplicity(role) for role in prototype.roles]
    found = []
    for species in product(*pools):
        charge = sum(n * item.charge for n, item in zip(multiplicities, species, strict=True))
        if charge:
            continue
        elements = {item.element for item in species}
        wanted = len(elements) == len(species) and (common or not elements <= COMMON)
        if wanted and _fits(prototype, species):
            found.append(species)
    return found


def _species_pool(kind: str) -> list[Species]:
    if kind in ELEMENTS:
        return [Species(element, 0, radius) for element, radius in ELEMENTS[kind].items()]
    tables = CATIONS if kind == "cation" else ANIONS
    return [
        Species(element, charge, radius)
        for charge, table in tables.items()
        for element, radius in table.items()
    ]


def _fits(prototype: Prototype, species: tuple[Species, ...]) -> bool:
    cations = [item.element for item in species if item.charge > 0]
    anions = [item.element for item in species if item.charge < 0]
    if cations and _polarity(cations, anions) < _SMALLEST_POLARITY:
        return False
    # Among multiply charged ions alone bands are wide, and the Gamma point is not enough.
    if cations and min(abs(item.charge) for item in species) > 1:
        return False
    by_role = dict(zip(prototype.roles, species, strict=True))
    constants = _lattice_constants(prototype, by_role)
    return max(constants) / min(constants) < _LARGEST_MISMATCH


def _polarity(cations: list[str], anions: list[str]) -> float:
    # Weakly polar compounds are metals at the Gamma point and hardly ever converge.
    weakest = min(ELECTRONEGATIVITY[element] for element in anions)
    return weakest - max(ELECTRONEGATIVITY[element] for element in cations)


def _lattice_constants(prototype: Prototype, species: Mapping[str, Species]) -> list[float]:
    return [
        (species[first].radius + species[second].radius) / distance
        for first, second, distance in prototype.contacts
    ]


def _distortion(variant: int) -> FloatArray:
    """A volume-conserving tetragonal or orthorhombic strain, shape (3, 3)."""
    if variant == 0:
        return np.eye(3)
    amplitude = 0.03 * ((variant + 1) // 2) * (-1) ** variant
    axes = np.array([[1.0, 1.0, -2.0], [1.0, -1.0, 0.0]])[variant % 2]
    return np.diag(np.exp(amplitude * axes))


def _supercell(
    roles: list[str], fractional: FloatArray, lattice: FloatArray, matrix: FloatArray
) -> tuple[list[str], FloatArray, FloatArray]:
    bigger = matrix @ lattice
    span = range(-4, 5)
    shifts = np.array(list(product(span, span, span)), dtype=float)
    points, kinds = [], []
    for role, site in zip(roles, fractional, strict=True):
        inside = (shifts + site) @ np.linalg.inv(matrix)
        inside = inside[np.all((inside > -1e-6) & (inside < 1 - 1e-6), axis=1)]
        points.append(inside)
        kinds += [role] * len(inside)
    return kinds, np.concatenate(points), bigger
