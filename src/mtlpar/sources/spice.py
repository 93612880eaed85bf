"""SPICE 2: drug-like molecules, peptides, dimers, ions and water, in one HDF5 file.

A group per molecule or cluster with M conformations of N atoms, everything in atomic units, and
gradients where others have forces (``downloader/README.md`` and ``downloader/downloader.py`` of
openmm/spice-dataset, which wrote the file). Energies are total ones. No dataset holds the charge:
it is the sum of the formal charges in ``smiles``, whose atoms are all in brackets. Multiplicities
are not stated. Molecules have several names, so compositions are the groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from mtlpar.core.hashing import name_hash
from mtlpar.core.structures import StructureBatch
from mtlpar.core.units import BOHR_ANGSTROM, HARTREE_EV
from mtlpar.sources.base import Piece, RawBlock, Source
from mtlpar.sources.hdf5 import (
    HDF5_ERRORS,
    announced_rows,
    even_pieces,
    float_array,
    names,
    open_file,
    read_groups,
)
from mtlpar.sources.reading import (
    Progress,
    as_atomic_numbers,
    damage_named,
    reduced_formula,
)
from mtlpar.sources.settings import SourceSettings

_POSITIONS: Final = "conformations"
_ENERGY: Final = "dft_total_energy"
_GRADIENT: Final = "dft_total_gradient"
# The charge of an atom in brackets, [NH3+:2], [O-:7] or [Ca+2:1]; a class of the atom may follow.
_FORMAL_CHARGE: Final = re.compile(r"\[[^\[\]]*?(?:(\+|-)(\d+)|(\++|-+))(?::\d+)?\]")


def read(path: Path, _settings: SourceSettings, piece: Piece | None = None) -> Iterator[RawBlock]:
    """Stream ``SPICE-2.0.1.hdf5``, or some molecules of it, one molecule at a time.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    keys = partial(names, where=str(path))
    return read_groups(path, piece, keys, _read_molecule, _announced)


def _announced(file: h5py.File, key: str) -> int:
    return announced_rows(file, [key], _POSITIONS, _ENERGY)


@contextmanager
def divide(path: Path, piece_bytes: int) -> Iterator[list[Piece]]:
    """Cut the file between molecules."""
    with damage_named(Progress(path), *HDF5_ERRORS), open_file(path) as file:
        count = len(names(file, where=str(path)))
        pieces = even_pieces(count, path.stat().st_size, piece_bytes)
    yield pieces


def _read_molecule(file: h5py.File, key: str, where: str) -> Iterator[RawBlock]:
    group = h5py.h5g.open(file.id, key.encode())
    numbers = float_array(group, "atomic_numbers", (None,), where=where)
    size = len(numbers)
    positions = float_array(group, _POSITIONS, (None, size, 3), where=where)
    count = len(positions)
    energy = float_array(group, _ENERGY, (count,), where=where)
    gradient = float_array(group, _GRADIENT, (count, size, 3), where=where)
    elements = as_atomic_numbers(numbers, where=where)
    composition = name_hash(SOURCE.name, reduced_formula(elements.tolist()))
    batch = StructureBatch.from_labels(
        num_atoms=np.full(count, size),
        atomic_numbers=np.tile(elements, count),
        positions=positions.reshape(-1, 3) * BOHR_ANGSTROM,
        energy=energy * HARTREE_EV,
        forces=gradient.reshape(-1, 3) * (-HARTREE_EV / BOHR_ANGSTROM),
        group=np.full(count, composition, np.uint64),
        charge=np.full(count, formal_charge(_smiles(file, key, where)), np.int8),
    )
    yield RawBlock(batch)


def _smiles(file: h5py.File, key: str, where: str) -> str:
    found = file[key].get("smiles")
    if not isinstance(found, h5py.Dataset) or found.size != 1:
        raise ValueError(f"{where}: expected one text 'smiles', which says the charge, got {found}")
    return str(np.ravel(found.asstr()[()])[0])


def formal_charge(smiles: str) -> int:
    """Sum of the formal charges of the atoms in brackets of a SMILES, in e."""
    total = 0
    for sign, number, signs in _FORMAL_CHARGE.findall(smiles):
        total += int(sign + number) if number else len(signs) * (1 if signs[0] == "+" else -1)
    return total


SOURCE: Final = Source(
    name="spice",
    title="SPICE",
    data_files=("SPICE-2*.hdf5",),
    level_of_theory="wB97M-D3(BJ)/def2-TZVPPD",
    read=read,
    divide=divide,
)
