"""ANI-1x: one HDF5 file, one group of arrays per chemical formula.

A group pools the conformers of all isomers of a formula; the file has no finer identity, so the
formula is what must not be split. Other levels of theory are in the file for a tenth of the rows,
with NaN elsewhere. wB97X/6-31G(d), which is complete, is read here; `mtlpar.sources.ani1ccx` reads
the coupled-cluster energies of the same file. Energies are in Hartree and forces in Hartree/Å (not
per Bohr).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from mtlpar.core.hashing import name_hash
from mtlpar.core.structures import StructureBatch, iterate_slices
from mtlpar.core.units import HARTREE_EV
from mtlpar.sources.base import Piece, RawBlock, Source
from mtlpar.sources.hdf5 import (
    HDF5_ERRORS,
    announced_rows,
    array,
    dataset,
    even_pieces,
    names,
    open_file,
    read_groups,
)
from mtlpar.sources.reading import (
    BLOCK_STRUCTURES,
    Progress,
    as_atomic_numbers,
    damage_named,
)
from mtlpar.sources.settings import SourceSettings

_ENERGY: Final = "wb97x_dz.energy"
_FORCES: Final = "wb97x_dz.forces"


class Formula(NamedTuple):
    """The conformers of one formula, n of A atoms, in a file of ANI-1x.

    Attributes:
        atomic_numbers: (A,), the same for all.
        coordinates: Data set of the positions in Å, (n, A, 3).
        energies: Data set of the energies at one level of theory in Hartree, (n,).
        group: What is never split between train and test, under one name for all levels of theory.
    """

    atomic_numbers: npt.NDArray[np.uint8]
    coordinates: h5py.Dataset
    energies: h5py.Dataset
    group: int

    @classmethod
    def of(cls, group: h5py.Group, formula: str, energy: str, where: str) -> Formula:
        """Look at the group of a formula.

        Args:
            group: The group.
            formula: Its name.
            energy: Name of the energies.
            where: Where it comes from, for messages.

        Raises:
            ValueError: If something is missing or has another shape.
        """
        atomic_numbers = as_atomic_numbers(
            array(group, "atomic_numbers", (None,), where=where), where=where
        )
        shape = (None, len(atomic_numbers), 3)
        coordinates = dataset(group, "coordinates", shape, where=where)
        energies = dataset(group, energy, (len(coordinates),), where=where)
        return cls(atomic_numbers, coordinates, energies, name_hash(SOURCE.name, formula))


def read_formulas(
    path: Path,
    piece: Piece | None,
    read_group: Callable[[h5py.File, str, str], Iterator[RawBlock]],
    announced: Callable[[h5py.File, str], int],
) -> Iterator[RawBlock]:
    """Stream a file, or some formulas of it, one formula after the other.

    Args:
        path: The file.
        piece: Which formulas; all if None.
        read_group: Reads a formula: the file, its name, and where that is, for messages.
        announced: How many rows a damaged formula was to have.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    return read_groups(path, piece, partial(names, where=str(path)), read_group, announced)


def read(path: Path, _settings: SourceSettings, piece: Piece | None = None) -> Iterator[RawBlock]:
    """Stream ``ani1x-release.h5``, or some formulas of it, a slice of one formula at a time.

    Rows whose labels are NaN are dropped as ``non_finite_label``.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    return read_formulas(path, piece, _read_group, _announced)


def _announced(file: h5py.File, formula: str) -> int:
    return announced_rows(file, [formula], "coordinates", _ENERGY)


@contextmanager
def divide(path: Path, piece_bytes: int) -> Iterator[list[Piece]]:
    """Cut the file between formulas."""
    with damage_named(Progress(path), *HDF5_ERRORS), open_file(path) as file:
        pieces = even_pieces(len(file), path.stat().st_size, piece_bytes)
    yield pieces


def _read_group(file: h5py.File, formula: str, where: str) -> Iterator[RawBlock]:
    group = file[formula]
    atomic_numbers, coordinates, energies, key = Formula.of(group, formula, _ENERGY, where)
    rows, size = len(coordinates), len(atomic_numbers)
    forces = dataset(group, _FORCES, (rows, size, 3), where=where)
    for start, stop in iterate_slices(rows, BLOCK_STRUCTURES):
        energy = energies[start:stop].astype(np.float64) * HARTREE_EV
        force = forces[start:stop].astype(np.float64) * HARTREE_EV
        good = np.isfinite(energy) & np.isfinite(force).all(axis=(1, 2))
        kept = int(good.sum())
        batch = StructureBatch.from_labels(
            num_atoms=np.full(kept, size),
            atomic_numbers=np.tile(atomic_numbers, kept),
            positions=coordinates[start:stop][good].reshape(-1, 3),
            energy=energy[good],
            forces=force[good].reshape(-1, 3),
            group=np.full(kept, key, np.uint64),
            spin=np.ones(kept, np.int8),
        )
        dropped = stop - start - kept
        yield RawBlock(batch, Counter({"non_finite_label": dropped} if dropped else {}))


SOURCE: Final = Source(
    name="ani1x",
    title="ANI-1x",
    data_files=("ani1x-release.h5",),
    level_of_theory="wB97X/6-31G(d)",
    read=read,
    divide=divide,
)
