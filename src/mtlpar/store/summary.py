"""What a ``.bp`` folder holds, in numbers: elements, sizes, energies and forces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from ase.data import chemical_symbols
from tqdm import tqdm

from mtlpar.core.fields import LABELS, MAX_ATOMIC_NUMBER
from mtlpar.core.structures import StructureBatch
from mtlpar.store.bp import BpReader
from mtlpar.store.header import BpHeader
from mtlpar.store.pack import open_folder

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_SLICE_STRUCTURES: Final = 16_384
_SAMPLE_STRUCTURES: Final = 200_000
FORCE_EDGES_EV_PER_ANGSTROM: Final[FloatArray] = np.logspace(-4, 3, 71)
"""Bins of the lengths of the force vectors; what lies outside counts in the outermost."""


@dataclass(slots=True, kw_only=True)
class Summary:
    """What was counted in some or all structures of a folder.

    Attributes:
        path: The folder.
        header: What it says about itself.
        num_bytes: Its size on disk.
        structures: Structures that were read and counted.
        atoms_of_element: Atoms by chemical symbol.
        structures_of_size: Structures by number of atoms.
        structures_of_dimension: Structures by number of periodic directions.
        with_label: Structures that have each label.
        energies_ev_per_atom: Energy per atom of each structure that has one, without references if
            the folder knows them.
        atoms_of_force: Atoms by length of the force vector, in the bins of
            `FORCE_EDGES_EV_PER_ANGSTROM`.
        max_force_ev_per_angstrom: Longest force vector.
    """

    path: Path
    header: BpHeader
    num_bytes: int
    structures: int = 0
    atoms_of_element: Counter[str] = field(default_factory=Counter)
    structures_of_size: Counter[int] = field(default_factory=Counter)
    structures_of_dimension: Counter[int] = field(default_factory=Counter)
    with_label: Counter[str] = field(default_factory=Counter)
    energies_ev_per_atom: FloatArray = field(default_factory=lambda: np.zeros(0))
    atoms_of_force: IntArray = field(
        default_factory=lambda: np.zeros(len(FORCE_EDGES_EV_PER_ANGSTROM) - 1, dtype=np.int64)
    )
    max_force_ev_per_angstrom: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether all structures were counted, and thereby all checksums compared."""
        return self.structures == self.header.num_structures

    @property
    def has_references(self) -> bool:
        """Whether energies are without reference energies."""
        return bool(self.header.references_ev)


def summarize(path: Path, *, everything: bool) -> Summary:
    """Read a folder and count.

    Args:
        path: The folder.
        everything: Read all structures, and so verify all checksums; otherwise a large folder is
            sampled in evenly spaced slices.

    Raises:
        ValueError: If the folder is missing, foreign or damaged.
    """
    with open_folder(path) as reader:
        summary = Summary(
            path=path,
            header=reader.header,
            num_bytes=sum(file.stat().st_size for file in path.iterdir()),
        )
        energies = []
        for batch in _sample(reader, everything=everything):
            _count(summary, batch)
            energy = batch.energy / batch.num_atoms
            target = reader.header.references.to_target(batch) if summary.has_references else energy
            energies.append(target[batch.has("energy")])
        summary.energies_ev_per_atom = np.concatenate(energies)
    return summary


def _sample(reader: BpReader[BpHeader], *, everything: bool) -> Iterator[StructureBatch]:
    slices = list(reader.slices(_SLICE_STRUCTURES))
    wanted = len(slices) if everything else max(1, _SAMPLE_STRUCTURES // _SLICE_STRUCTURES)
    chosen = np.unique(np.linspace(0, len(slices) - 1, min(wanted, len(slices))).round())
    for index in tqdm(chosen.astype(int).tolist(), desc=reader.path.name, disable=None):
        yield reader.read(*slices[index])


def _count(summary: Summary, batch: StructureBatch) -> None:
    summary.structures += len(batch)
    elements = np.bincount(batch.atomic_numbers, minlength=MAX_ATOMIC_NUMBER + 1)
    summary.atoms_of_element.update(
        {chemical_symbols[z]: int(elements[z]) for z in np.flatnonzero(elements)}
    )
    summary.structures_of_size.update(_counts(batch.num_atoms))
    summary.structures_of_dimension.update(_counts(batch.pbc.sum(axis=1)))
    for label in LABELS:
        summary.with_label[label] += int(batch.has(label).sum())
    forces = batch.forces[np.repeat(batch.has("forces"), batch.num_atoms)]
    norms = np.sqrt(np.einsum("ij,ij->i", forces, forces, dtype=np.float64))
    low, high = FORCE_EDGES_EV_PER_ANGSTROM[[0, -1]]
    counts, _ = np.histogram(norms.clip(low, high), FORCE_EDGES_EV_PER_ANGSTROM)
    summary.atoms_of_force += counts
    longest = float(norms.max(initial=0.0))
    summary.max_force_ev_per_angstrom = max(summary.max_force_ev_per_angstrom, longest)


def _counts(values: npt.NDArray[Any]) -> dict[int, int]:
    distinct, counts = np.unique(values, return_counts=True)
    return dict(zip(distinct.tolist(), counts.tolist(), strict=True))
