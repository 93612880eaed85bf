"""Reactions of small molecules: mapped end points and paths between them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.mep.neb import NEB, idpp_interpolate
from ase.optimize import FIRE

from .base import BoolArray, FloatArray, IntArray, UnusableDrawError
from .labels import Surface
from .molecules import atomic_numbers, closest_contact, covalent_radii, sorted_by_element
from .relaxation import Frame, SurfaceCalculator, frame_of, relax_molecule

IMAGES: Final = 10
_SPRING: Final = 3.0
_TIME_STEP: Final = 0.1
_LARGEST_MOVE: Final = 0.06
_STEPS_BETWEEN_BANDS: Final = 6
_BONDED: Final = 1.3
_HIGHEST_BARRIER_EV: Final = 14.0


@dataclass(frozen=True)
class Template:
    """A reaction as edits of the bonds between matched atoms.

    Attributes:
        name: Name of the reaction.
        pattern: SMARTS of the reactant, with hydrogen atoms as atoms.
        edits: Pairs of matched atoms with their new bond order, 0 for no bond.
    """

    name: str
    pattern: str
    edits: tuple[tuple[int, int, int], ...]


_SHIFT: Final = ((0, 1, 0), (0, 3, 1), (1, 2, 2), (2, 3, 1))
_ELIMINATION: Final = ((0, 1, 0), (1, 2, 2), (2, 3, 0), (0, 3, 1))

TEMPLATES: Final = (
    Template("keto_enol", "[H][CX4][C]=[O]", _SHIFT),
    Template("amide_imidic", "[H][N][C]=[O]", _SHIFT),
    Template("imine_enamine", "[H][CX4][C]=[N]", _SHIFT),
    Template("acid_proton", "[H][O][C]=[O]", _SHIFT),
    Template("allyl_shift", "[H][CX4][C]=[C]", _SHIFT),
    Template("enol_keto", "[H][O][C]=[C]", _SHIFT),
    Template("enamine_imine", "[H][N][C]=[C]", _SHIFT),
    Template("nitrile_ketenimine", "[H][CX4][C]#[N]",
             ((0, 1, 0), (0, 3, 1), (1, 2, 2), (2, 3, 2))),
    Template("propargyl_allenyl", "[H][CX4][C]#[C]",
             ((0, 1, 0), (0, 3, 1), (1, 2, 2), (2, 3, 2))),
    Template("dehydration", "[H][CX4][CX4][OX2;$([OX2][H])]", _ELIMINATION),
    Template("deamination", "[H][CX4][CX4][NX3;$([NX3][H])]", _ELIMINATION),
    Template("alcohol_dehydrogenation", "[H][CX4][OX2][H]", _ELIMINATION),
    Template("amine_dehydrogenation", "[H][CX4][NX3][H]", _ELIMINATION),
    Template("alkane_dehydrogenation", "[H][CX4][CX4][H]", _ELIMINATION),
    Template("decarboxylation", "[#6][C](=[O])[O][H]",
             ((0, 1, 0), (1, 3, 2), (3, 4, 0), (0, 4, 1))),
    Template("cyclopropane_opening", "[C;r3]1[C;r3]([H])[C;r3]1",
             ((0, 3, 0), (1, 2, 0), (0, 2, 1), (1, 3, 2))),
    Template("epoxide_to_carbonyl", "[O;r3]1[C;r3][C;r3]1[H]",
             ((0, 1, 0), (2, 3, 0), (1, 3, 1), (0, 2, 2))),
    Template("retro_aldol", "[H][O][C][C][C]=[O]",
             ((0, 1, 0), (1, 2, 2), (2, 3, 0), (3, 4, 2), (4, 5, 1), (0, 5, 1))),
    Template("cyclobutene_opening", "[C;r4]1=[C;r4][C;r4][C;r4]1",
             ((0, 1, 1), (1, 2, 2), (2, 3, 0), (0, 3, 2))),
)  # fmt: skip


@dataclass(frozen=True)
class Reaction:
    """A labelled reaction path.

    Attributes:
        name: Name of the template.
        smiles: Reactant.
        numbers: Atomic numbers, shape (atoms,).
        frames: First all images of the unrelaxed band, then the movable images of each band
            saved during its relaxation.
        transition_state: The highest image of the last band.
    """

    name: str
    smiles: str
    numbers: IntArray
    frames: tuple[Frame, ...]
    transition_state: Frame


def draw_reaction(
    smiles: str,
    rng: np.random.Generator,
    *,
    surface_of: Callable[[IntArray], Surface],
    bands: int,
    largest: int,
) -> Reaction:
    """Draw one reaction of a molecule and follows its path.

    Args:
        smiles: The reactant.
        rng: Source of the random numbers.
        surface_of: Function from atomic numbers to the surface to move on.
        bands: Number of bands saved after the first one.
        largest: Largest number of atoms.

    Raises:
        UnusableDrawError: The molecule has no reaction, or its path is of no use.
    """
    from rdkit import Chem

    mol = sorted_by_element(Chem.AddHs(Chem.MolFromSmiles(smiles)))
    if mol.GetNumAtoms() > largest:
        raise UnusableDrawError(f"{smiles} has more than {largest} atoms")
    choices = list(_products(mol))
    if not choices:
        raise UnusableDrawError(f"no template applies to {smiles}")
    name, product = choices[int(rng.integers(len(choices)))]
    numbers = atomic_numbers(mol)
    start, end = _force_field_ends(mol, product, rng)
    surface = surface_of(numbers)
    reactant, finish = relax_molecule(surface, start), relax_molecule(surface, end)
    if np.array_equal(_bonds(numbers, reactant.positions), _bonds(numbers, finish.positions)):
        raise UnusableDrawError(f"{name} of {smiles} relaxes back to the reactant")
    frames = _relaxed_path(surface, numbers, reactant.positions, finish.positions, bands)
    last_band = frames[-(IMAGES - 2) :]
    top = max(last_band, key=lambda frame: frame.label.energy)
    if top.label.energy - frames[0].label.energy > _HIGHEST_BARRIER_EV:
        raise UnusableDrawError(f"{name} of {smiles} has an absurd barrier")
    return Reaction(name, smiles, numbers, tuple(frames), top)


def _products(mol: Any) -> Iterator[tuple[str, Any]]:
    from rdkit import Chem

    kekulized = Chem.Mol(mol)
    Chem.Kekulize(kekulized, clearAromaticFlags=True)
    for template in TEMPLATES:
        query = Chem.MolFromSmarts(template.pattern)
        for match in kekulized.GetSubstructMatches(query, uniquify=True, maxMatches=4):
            product = _edited(kekulized, template, match)
            if product is not None:
                yield template.name, product


def _edited(mol: Any, template: Template, match: tuple[int, ...]) -> Any | None:
    from rdkit import Chem

    orders = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE}
    product = Chem.RWMol(mol)
    for first, second, order in template.edits:
        product.RemoveBond(match[first], match[second])
        if order:
            product.AddBond(match[first], match[second], orders[order])
    if Chem.SanitizeMol(product, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
        return None
    if any(atom.GetNumRadicalElectrons() for atom in product.GetAtoms()):
        return None
    return product.GetMol()


def _force_field_ends(
    mol: Any, product: Any, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Embed the reactant and lets the force field pull it over to the product."""
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    mol = type(mol)(mol)
    seed = int(rng.integers(1, 2**31 - 1))
    if (
        rdDistGeom.EmbedMolecule(mol, randomSeed=seed) != 0
        or rdForceFieldHelpers.MMFFOptimizeMolecule(mol) < 0
    ):
        raise UnusableDrawError("the reactant cannot be embedded")
    product.RemoveAllConformers()
    product.AddConformer(mol.GetConformer(), assignId=True)
    # MMFF does not know H2, which some eliminations set free.
    if rdForceFieldHelpers.MMFFOptimizeMolecule(product, maxIters=2000) < 0 and (
        rdForceFieldHelpers.UFFOptimizeMolecule(product, maxIters=2000) < 0
    ):
        raise UnusableDrawError("no force field knows the product")
    return (
        np.array(mol.GetConformer().GetPositions()),
        np.array(product.GetConformer().GetPositions()),
    )


def _bonds(numbers: IntArray, positions: FloatArray) -> BoolArray:
    radii = covalent_radii(numbers)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return np.asarray(distances < _BONDED * (radii[:, None] + radii[None]))


def _relaxed_path(
    surface: Surface, numbers: IntArray, start: FloatArray, end: FloatArray, bands: int
) -> list[Frame]:
    """All images of the interpolated path, then the inner images of each band on its way down."""
    images = [Atoms(numbers, start) for _ in range(IMAGES - 1)] + [Atoms(numbers, end)]
    minimize_rotation_and_translation(images[0], images[-1])
    band = NEB(images, k=_SPRING, method="improvedtangent")
    band.interpolate()
    with warnings.catch_warnings():
        # The function builds a band of its own with a method that cannot be chosen.
        warnings.simplefilter("ignore")
        idpp_interpolate(band, traj=None, log=None, fmax=0.2, steps=60)
    if not all(closest_contact(numbers, image.positions) > 0.5 for image in images):
        raise UnusableDrawError("atoms collide on the interpolated path")
    for image in images:
        image.calc = SurfaceCalculator(surface)
        image.get_potential_energy()
    frames = [frame_of(image) for image in images]
    optimizer = FIRE(band, logfile=None, dt=_TIME_STEP, maxstep=_LARGEST_MOVE)
    for _ in range(bands):
        optimizer.run(fmax=0.0, steps=_STEPS_BETWEEN_BANDS)
        frames += [frame_of(image) for image in images[1:-1]]
    return frames
