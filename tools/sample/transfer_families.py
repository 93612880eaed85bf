"""Compute the structures of the transfer study: three families at levels that no source has.

    python -m tools.sample.transfer_families workflow/transfer

Molecules and pairs of molecules in implicit water, and crystals by another method than that of the
sample's crystals. A sixth of the groups is marked for tests. The seed differs from the sample's, so
that molecules and materials are others; equal seeds give equal files.
"""

from __future__ import annotations

import argparse
import gzip
import io
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.io import write
from tqdm import tqdm

from .base import FloatArray, IntArray, UnusableDrawError, random_stream
from .crystals import build_crystal, crystal_plans, grown, strained_and_rattled
from .labels import Label, Surface, label_frames
from .molecules import conformers, displaced_geometries, placed_beside
from .smiles import molecule_smiles

SEED = 4242
STRUCTURES = 1300
TEST_EVERY = 6
_THERMAL = (300.0, 1000.0)
_PER_GROUP = 6
_MOST_CELL_ATOMS = 12
_WATER, _AMMONIA = "O", "N"


class Frame(NamedTuple):
    """A structure with its label, and the molecule or material that it belongs to."""

    group: str
    numbers: IntArray
    positions: FloatArray
    lattice: FloatArray | None
    label: Label


def molecules() -> Iterator[Frame]:
    """Single molecules of up to seven heavy atoms, with sulfur and chlorine, in water."""
    names = molecule_smiles(SEED, share=0.65, stream=9, heavy=7, halogen_sulfur=True)
    for index, smiles in enumerate(names):
        rng = random_stream(SEED, 0, index)
        try:
            molecule = conformers(smiles, rng, count=1)[0]
        except UnusableDrawError:
            continue
        geometries = displaced_geometries(
            molecule, molecule.positions, rng, count=_PER_GROUP, temperatures=_THERMAL
        )
        labelled = label_frames("GFN2-xTB", molecule.numbers, geometries, solvent="water")
        for positions, label in labelled:
            yield Frame(smiles, molecule.numbers, positions, None, label)


def pairs() -> Iterator[Frame]:
    """Molecules of up to five heavy atoms beside water or ammonia, in water."""
    names = molecule_smiles(SEED, share=0.65, stream=10, heavy=5, halogen_sulfur=False)
    for index, smiles in enumerate(names):
        rng = random_stream(SEED, 1, index)
        try:
            molecule = conformers(smiles, rng, count=1)[0]
            guest = conformers(str(rng.choice((_WATER, _AMMONIA))), rng, count=1)[0]
        except UnusableDrawError:
            continue
        geometries = displaced_geometries(
            molecule, molecule.positions, rng, count=_PER_GROUP, temperatures=_THERMAL
        )
        group = f"{smiles}.{guest.smiles}"
        for one in geometries:
            numbers, positions = placed_beside(
                molecule.numbers, one, (guest.numbers, guest.positions), rng
            )
            for geometry, label in label_frames("GFN2-xTB", numbers, [positions], solvent="water"):
                yield Frame(group, numbers, geometry, None, label)


def crystals() -> Iterator[Frame]:
    """Strained and rattled crystals of the sample's prototypes."""
    for index, plan in enumerate(crystal_plans(SEED, share=0.65, stream=11)):
        rng = random_stream(SEED, 2, index)
        crystal = build_crystal(plan, enlarged=True)
        if len(plan.species) > 1:
            crystal = grown(crystal, atoms=8)
        if len(crystal.numbers) > _MOST_CELL_ATOMS:
            continue
        surface = Surface("IPEA1-xTB", crystal.numbers)
        for _ in range(_PER_GROUP):
            positions, lattice = strained_and_rattled(crystal, rng, strain=0.03, rattle=0.08)
            try:
                label = surface(positions, lattice)
            except UnusableDrawError:
                break
            if np.abs(label.forces).max() < 5.0:
                group = f"{crystal.prototype} {' '.join(crystal.elements)} {index}"
                yield Frame(group, crystal.numbers, positions, lattice, label)


FAMILIES: dict[str, Callable[[], Iterator[Frame]]] = {
    "molecules": molecules,
    "pairs": pairs,
    "crystals": crystals,
}


def to_atoms(frame: Frame, *, part: str) -> Atoms:
    """A frame as extended XYZ takes it: energy in eV, forces in eV/Å."""
    periodic = frame.lattice is not None
    atoms = Atoms(frame.numbers, frame.positions, cell=frame.lattice, pbc=periodic)
    atoms.info |= {"energy": frame.label.energy, "group": frame.group, "part": part}
    atoms.arrays["forces"] = frame.label.forces
    return atoms


def write_family(path: Path, frames: Iterator[Frame], count: int) -> None:
    """Write a compressed extended XYZ file with whole groups for tests."""
    groups: dict[str, int] = {}
    text = io.StringIO()
    for frame in tqdm(islice(frames, count), total=count, desc=path.stem, disable=None):
        number = groups.setdefault(frame.group, len(groups))
        part = "test" if number % TEST_EVERY == 0 else "pool"
        write(text, to_atoms(frame, part=part), format="extxyz", write_results=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the time of writing equal structures are equal bytes.
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def main() -> None:
    """Write the families that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--structures", type=int, default=STRUCTURES, help="of each family")
    options = parser.parse_args()
    for name, frames in FAMILIES.items():
        path = options.folder / f"{name}.extxyz.gz"
        if not path.exists():
            write_family(path, frames(), options.structures)


if __name__ == "__main__":
    main()
