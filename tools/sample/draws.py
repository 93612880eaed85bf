"""One draw of every source: a molecule, a reaction or a material with its labelled frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from typing import Any, Final

import numpy as np

from .base import SOURCES, FloatArray, IntArray, UnusableDrawError, random_stream
from .crystals import (
    Crystal,
    CrystalPlan,
    build_crystal,
    crystal_plans,
    grown,
    strained_and_rattled,
    with_substitutes,
)
from .labels import Label, Surface, label_frames
from .molecules import Molecule, conformers, displaced_geometries, on_grid, placed_beside
from .reactions import Reaction, draw_reaction
from .relaxation import Frame, relax_crystal, relax_molecule
from .smiles import molecule_smiles

_SHARED: Final = 0.65
_THERMAL: Final = (300.0, 1000.0)
_GUESTS: Final = ("O", "N", "C=O", "C")
_PAIR_SHARE: Final = 0.07
_REPEAT_SHARE: Final = 0.04
_DUPLICATE_EVERY: Final = 30
_DUPLICATE_OFFSET: Final = 7
_SAME_CONFORMER_EV: Final = 2e-3
_MOST_ATOMS: Final = 24
_MOST_REACTION_ATOMS: Final = 16
_FEWEST_CELL_ATOMS: Final = 8
_MOST_CELL_ATOMS: Final = 14
_SUBSTITUTION: Final = 1
_RELAXED_FORCE: Final = 0.03
_RELAXED_STRESS: Final = 0.006
_VOLUME_RANGE: Final = (0.66, 1.55)
_FEWEST_FRAMES: Final = 3
_WINDOW_PER_ATOM: Final = 1.0
# Noble gases are the elements that relax in a primitive cell, and they come out large there.
_ELEMENT_DILATION: Final = 1.15
# In the small cells of their ideal types these hardly ever have an equilibrium nearby.
_UNRELAXABLE: Final = frozenset({"wurtzite", "cadmium_iodide", "layered_zincblende"})


@dataclass(frozen=True)
class Task:
    """One draw to make, small enough to be sent to another process.

    Attributes:
        source: Name of the source.
        seed: Seed of the sample.
        index: Number of the draw.
        subject: SMILES or crystal plan.
        origin: Number of the draw whose equilibria this one repeats, or None.
    """

    source: str
    seed: int
    index: int
    subject: str | CrystalPlan
    origin: int | None = None

    def stream(self, *path: int) -> np.random.Generator:
        """The random stream of this draw."""
        return random_stream(self.seed, SOURCES.index(self.source), self.index, *path)


@dataclass(frozen=True)
class ConformerPool:
    """Geometries (atoms, 3) in Å of one molecule or pair of molecules, with labels."""

    smiles: str
    numbers: IntArray
    frames: tuple[tuple[FloatArray, Label], ...]


@dataclass(frozen=True)
class TwiceLabelled:
    """A geometry in Å with the label of the source and the energy of another method in eV."""

    positions: FloatArray
    label: Label
    other_energy: float


@dataclass(frozen=True)
class Equilibrium:
    """A relaxed conformer with displaced geometries around it."""

    isomer: int
    conformer: int
    relaxed: TwiceLabelled
    displaced: tuple[TwiceLabelled, ...]


@dataclass(frozen=True)
class MoleculeFamily:
    """All isomers and conformers of one molecule; a repeated one has known equilibria."""

    smiles: str
    numbers: IntArray
    equilibria: tuple[Equilibrium, ...]
    repeated: bool


@dataclass(frozen=True)
class Trajectory:
    """Frames of one material on its way to equilibrium, or only the last of them."""

    crystal: Crystal
    frames: tuple[Frame, ...]


Drawn = ConformerPool | MoleculeFamily | Reaction | Trajectory


def tasks(source: str, seed: int) -> Iterator[Task]:
    """Enumerate the draws of a source, more than 20,000 structures need."""
    number = SOURCES.index(source)
    if source in ("mptrj", "alexandria"):
        skipped = _UNRELAXABLE if source == "alexandria" else frozenset()
        plans = crystal_plans(seed, share=_SHARED, stream=number, skipped=skipped)
        for index, plan in enumerate(plans):
            yield Task(source, seed, index, plan)
        return
    heavy = 9 if source == "ani1x" else 7
    enumerate_once = partial(
        molecule_smiles,
        seed,
        share=_SHARED,
        stream=number,
        heavy=heavy,
        halogen_sulfur=source == "qm7x",
    )
    # A pool of conformers may come back to a molecule; the other sources must not.
    rounds = count() if source == "ani1x" else range(1)
    names = chain.from_iterable(enumerate_once() for _ in rounds)
    drawn: list[str] = []
    for index in count():
        repeats = source == "qm7x" and index % _DUPLICATE_EVERY == _DUPLICATE_EVERY - 1
        origin = index - _DUPLICATE_OFFSET if repeats else None
        smiles = next(names, None) if origin is None else drawn[origin]
        if smiles is None:
            return
        drawn.append(smiles)
        yield Task(source, seed, index, smiles, origin)


def perform(task: Task) -> Drawn | str:
    """Make one draw.

    Returns:
        The drawn frames, or the reason why the candidate was dropped.
    """
    try:
        return _DRAWS[task.source](task)
    except UnusableDrawError as reason:
        return str(reason)


def structures_in(drawn: Drawn) -> int:
    """Count the labelled structures of a draw."""
    if isinstance(drawn, MoleculeFamily):
        return sum(1 + len(item.displaced) for item in drawn.equilibria)
    return len(drawn.frames)


def _draw_ani1x(task: Task) -> ConformerPool:
    rng = task.stream()
    molecule = conformers(_smiles(task), rng, count=1)[0]
    wanted = int(rng.integers(4, 10))
    geometries = displaced_geometries(
        molecule, molecule.positions, rng, count=wanted, temperatures=_THERMAL
    )
    numbers, name = molecule.numbers, molecule.smiles
    if rng.random() < _PAIR_SHARE:
        guest = conformers(str(rng.choice(_GUESTS)), rng, count=1)[0]
        pairs = [
            placed_beside(numbers, geometry, (guest.numbers, guest.positions), rng)
            for geometry in geometries
        ]
        numbers, name = pairs[0][0], f"{name}.{guest.smiles}"
        geometries = [on_grid(positions) for _, positions in pairs]
    if not 4 <= len(numbers) <= _MOST_ATOMS:
        raise UnusableDrawError(f"{name} has {len(numbers)} atoms")
    frames = label_frames("GFN2-xTB", numbers, geometries)
    if frames and rng.random() < _REPEAT_SHARE:
        frames.append(frames[0])
    return ConformerPool(name, numbers, tuple(frames))


def _draw_qm7x(task: Task) -> MoleculeFamily:
    original = task if task.origin is None else replace(task, index=task.origin)
    equilibria: list[Equilibrium] = []
    for isomer, smiles in enumerate(_stereoisomers(_smiles(task)), start=1):
        rng = original.stream(isomer)
        energies: list[float] = []
        for molecule in conformers(smiles, rng, count=2):
            frame = relax_molecule(Surface("GFN2-xTB", molecule.numbers), molecule.positions)
            if any(abs(frame.label.energy - known) < _SAME_CONFORMER_EV for known in energies):
                continue
            energies.append(frame.label.energy)
            noise = task.stream(isomer, len(energies))
            equilibria.append(_equilibrium(molecule, frame, noise, (isomer, len(energies))))
    if not equilibria:
        raise UnusableDrawError(f"{task.subject} has no equilibrium")
    return MoleculeFamily(
        _smiles(task), molecule.numbers, tuple(equilibria), task.origin is not None
    )


def _equilibrium(
    molecule: Molecule, frame: Frame, rng: np.random.Generator, place: tuple[int, int]
) -> Equilibrium:
    numbers = molecule.numbers
    center = on_grid(frame.positions)
    wanted = int(rng.integers(6, 9))
    around = displaced_geometries(molecule, center, rng, count=wanted, temperatures=_THERMAL)
    (first, *others) = _twice_labelled(numbers, [center, *around])
    if first.positions is not center:
        raise UnusableDrawError(f"{molecule.smiles}: the equilibrium has no label")
    return Equilibrium(*place, first, tuple(others))


def _twice_labelled(numbers: IntArray, geometries: list[FloatArray]) -> list[TwiceLabelled]:
    found = []
    other = Surface("GFN2-xTB", numbers)
    for positions, label in label_frames("GFN1-xTB", numbers, geometries):
        found.append(TwiceLabelled(positions, label, other(positions).energy))
    if not found:
        raise UnusableDrawError("no geometry has a label")
    return found


def _draw_transition1x(task: Task) -> Reaction:
    rng = task.stream()
    bands = int(rng.integers(2, 5))
    surface_of: Callable[[IntArray], Surface] = partial(Surface, "IPEA1-xTB")
    return draw_reaction(
        _smiles(task), rng, surface_of=surface_of, bands=bands, largest=_MOST_REACTION_ATOMS
    )


def _draw_mptrj(task: Task) -> Trajectory:
    rng = task.stream()
    crystal = _crystal(task)
    positions, lattice = strained_and_rattled(crystal, rng, strain=0.02, rattle=0.05)
    frames = relax_crystal(
        Surface("GFN1-xTB", crystal.numbers),
        positions,
        lattice,
        settled=partial(_settled, crystal),
        steps=int(rng.integers(3, 5)),
    )
    return Trajectory(crystal, _plausible_frames(crystal, frames))


def _plausible_frames(crystal: Crystal, frames: list[Frame]) -> tuple[Frame, ...]:
    """Keep the frames that a filter of relaxations with real calculations would keep."""
    largest = max(1.5, 2.5 * float(np.abs(frames[0].label.forces).max()))
    lowest = min(frame.label.energy for frame in frames)
    window = _WINDOW_PER_ATOM * len(crystal.numbers)
    kept = tuple(
        frame
        for frame in frames
        if np.abs(frame.label.forces).max() <= largest
        and frame.label.energy - lowest <= window
        and _keeps_volume(crystal, frame)
    )
    if len(kept) < _FEWEST_FRAMES:
        raise UnusableDrawError(f"{crystal.prototype}: the relaxation leaves the known structure")
    return kept


def _draw_alexandria(task: Task) -> Trajectory:
    crystal = _crystal(task)
    frames = relax_crystal(
        Surface("GFN1-xTB", crystal.numbers),
        crystal.positions,
        crystal.lattice,
        settled=partial(_settled, crystal),
        steps=12,
    )
    if not _relaxed(frames[-1]):
        raise UnusableDrawError(f"{crystal.prototype}: no equilibrium near the ideal structure")
    return Trajectory(crystal, (frames[-1],))


def _settled(crystal: Crystal, frame: Frame) -> bool:
    if not _keeps_volume(crystal, frame):
        raise UnusableDrawError(f"{crystal.prototype}: the volume runs away")
    return _relaxed(frame)


def _relaxed(frame: Frame) -> bool:
    stress = float(np.abs(frame.label.virial).max() / frame.volume)
    return stress < _RELAXED_STRESS and np.abs(frame.label.forces).max() < _RELAXED_FORCE


def _keeps_volume(crystal: Crystal, frame: Frame) -> bool:
    ratio = frame.volume / abs(np.linalg.det(crystal.lattice))
    return bool(_VOLUME_RANGE[0] < ratio < _VOLUME_RANGE[1])


def _crystal(task: Task) -> Crystal:
    """Build the crystal of a task, in a cell for which the Gamma point is a fair approximation.

    xTB knows no other k-points: what an energy owes to the size of the cell is part of the label.
    Cells of like size and closed-shell ions keep that part smooth enough to be learned.
    """
    plan = _plan(task)
    if len(plan.species) == 1:
        # Noble gases have flat bands: one atom per cell will do.
        return build_crystal(plan, enlarged=False, dilation=_ELEMENT_DILATION)
    ideal = grown(build_crystal(plan, enlarged=True), atoms=_FEWEST_CELL_ATOMS)
    crystal = with_substitutes(ideal, task.stream(_SUBSTITUTION))
    if len(crystal.numbers) > _MOST_CELL_ATOMS:
        raise UnusableDrawError(f"{crystal.prototype} has {len(crystal.numbers)} atoms per cell")
    return crystal


def _stereoisomers(smiles: str) -> list[str]:
    from rdkit import Chem
    from rdkit.Chem import EnumerateStereoisomers

    stereo: Any = EnumerateStereoisomers
    options = stereo.StereoEnumerationOptions(maxIsomers=2, unique=True, rand=0)
    isomers = stereo.EnumerateStereoisomers(Chem.MolFromSmiles(smiles), options=options)
    return [str(Chem.MolToSmiles(isomer)) for isomer in isomers]


def _smiles(task: Task) -> str:
    assert isinstance(task.subject, str)
    return task.subject


def _plan(task: Task) -> CrystalPlan:
    assert isinstance(task.subject, CrystalPlan)
    return task.subject


_DRAWS: Final[dict[str, Callable[[Task], Drawn]]] = {
    "ani1x": _draw_ani1x,
    "qm7x": _draw_qm7x,
    "transition1x": _draw_transition1x,
    "mptrj": _draw_mptrj,
    "alexandria": _draw_alexandria,
}
