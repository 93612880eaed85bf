"""ANI-1ccx: coupled-cluster energies of a tenth of ANI-1x, in the very file of ANI-1x.

Energies alone, in Hartree; rows without one, which are NaN, are rows of ANI-1x only and are not
counted here. Formulas are the groups of both sources, under one name, so that hashes deal a formula
to the same split of either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from mtlpar.core.structures import StructureBatch, iterate_slices
from mtlpar.core.units import HARTREE_EV
from mtlpar.sources import ani1x
from mtlpar.sources.base import Piece, RawBlock, Source
from mtlpar.sources.reading import BLOCK_STRUCTURES
from mtlpar.sources.settings import SourceSettings

_ENERGY: Final = "ccsd(t)_cbs.energy"


def read(path: Path, _settings: SourceSettings, piece: Piece | None = None) -> Iterator[RawBlock]:
    """Stream the coupled-cluster energies of ``ani1x-release.h5``, or of some formulas of it.

    Energies that are infinite are dropped as ``non_finite_label``.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    return ani1x.read_formulas(path, piece, _read_group, _announced)


def _announced(_file: h5py.File, _formula: str) -> int:
    """How many rows of a damaged formula had an energy is not known."""
    return 0


def _read_group(file: h5py.File, formula: str, where: str) -> Iterator[RawBlock]:
    atomic_numbers, coordinates, energies, key = ani1x.Formula.of(
        file[formula], formula, _ENERGY, where
    )
    rows, size = len(coordinates), len(atomic_numbers)
    for start, stop in iterate_slices(rows, BLOCK_STRUCTURES):
        energy = energies[start:stop].astype(np.float64) * HARTREE_EV
        labelled = ~np.isnan(energy)
        if not labelled.any():
            # Nine of ten formulas have none, and their coordinates need not be read.
            continue
        good = np.isfinite(energy)
        kept = int(good.sum())
        batch = StructureBatch.from_labels(
            num_atoms=np.full(kept, size),
            atomic_numbers=np.tile(atomic_numbers, kept),
            positions=coordinates[start:stop][good].reshape(-1, 3),
            energy=energy[good],
            forces=np.zeros((kept * size, 3)),
            forces_mask=np.zeros(kept, np.uint8),
            group=np.full(kept, key, np.uint64),
            spin=np.ones(kept, np.int8),
        )
        dropped = int(labelled.sum()) - kept
        yield RawBlock(batch, Counter({"non_finite_label": dropped} if dropped else {}))


SOURCE: Final = Source(
    name="ani1ccx",
    title="ANI-1ccx",
    files_of=ani1x.SOURCE.name,
    data_files=ani1x.SOURCE.data_files,
    level_of_theory="CCSD(T)*/CBS",
    read=read,
    divide=ani1x.divide,
)
