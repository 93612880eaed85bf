"""What is done with each extracted part, in any process: it reads columns and returns sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.references import reference_sums
from mtlpar.normalize.exact import exact_sum, from_quanta
from mtlpar.normalize.fit import Moments, gather_moments
from mtlpar.normalize.split import DROPPED, TRAIN, SplitArray
from mtlpar.store.bp import BpReader

FloatArray = npt.NDArray[np.float64]

_SUMS: Final = ("energy_abs", "energy_square", "force_abs", "force_square")


@dataclass(frozen=True, slots=True)
class MomentsTask:
    """A part, and which of its structures are fitted; travels to another process."""

    path: Path
    split: SplitArray


@dataclass(frozen=True, slots=True)
class ResidualsTask:
    """A part, the splits of its structures, and the reference energies by atomic number (119,)."""

    path: Path
    split: SplitArray
    table: FloatArray


@dataclass(slots=True)
class TrainSums:
    """Exact sums over training structures: the same for any partition.

    Attributes:
        structures: Number of structures.
        atoms: Number of atoms.
        quanta: Sums by name in 2^-57 of their unit (eV/atom, eV/Å and their squares).
    """

    structures: int
    atoms: int
    quanta: dict[str, int]

    @classmethod
    def none(cls) -> TrainSums:
        """The sums over no structure."""
        return cls(0, 0, dict.fromkeys(_SUMS, 0))

    def __add__(self, other: TrainSums) -> TrainSums:
        quanta = {name: self.quanta[name] + other.quanta[name] for name in _SUMS}
        return TrainSums(self.structures + other.structures, self.atoms + other.atoms, quanta)

    def statistics(self) -> dict[str, float]:
        """Size of the targets: what predicting zero would cost."""
        total = {name: from_quanta(quanta) for name, quanta in self.quanta.items()}
        components = 3 * self.atoms
        return {
            "energy_mean_abs_ev_per_atom": total["energy_abs"] / self.structures,
            "energy_rms_ev_per_atom": (total["energy_square"] / self.structures) ** 0.5,
            "force_mean_abs_ev_per_angstrom": total["force_abs"] / components,
            "force_rms_ev_per_angstrom": (total["force_square"] / components) ** 0.5,
        }


@dataclass(frozen=True, slots=True)
class Residuals:
    """What is left of a part's energies without references.

    Attributes:
        target_ev_per_atom: (S,) NaN where the structure is dropped or an element has no reference.
        undefined: Whether an element without a reference occurs in a structure, (S,).
        undefined_elements: Atomic numbers of these elements.
        train: Sums over the training structures.
    """

    target_ev_per_atom: FloatArray
    undefined: npt.NDArray[np.bool_]
    undefined_elements: frozenset[int]
    train: TrainSums


def part_moments(task: MomentsTask) -> Moments:
    """Sufficient statistics of the training structures of a part."""
    chosen = task.split == TRAIN
    if not chosen.any():
        return Moments.none()
    with BpReader(task.path) as reader:
        num_atoms = reader.read_column("num_atoms")
        numbers = reader.read_column("atomic_numbers")
        energy = reader.read_column("energy")
    with _named(task.path, "total energies in eV"):
        return gather_moments(
            num_atoms[chosen], numbers[np.repeat(chosen, num_atoms)], energy[chosen]
        )


def part_residuals(task: ResidualsTask) -> Residuals:
    """Energies per atom without references of a part, and sums over its training structures."""
    kept = task.split != DROPPED
    with BpReader(task.path) as reader:
        num_atoms = reader.read_column("num_atoms")
        numbers = reader.read_column("atomic_numbers")
        energy = reader.read_column("energy")
        forces = reader.read_column("forces")
    sums = reference_sums(task.table, num_atoms, numbers)
    undefined = kept & np.isnan(sums)
    without_reference = np.isnan(task.table[numbers]) & np.repeat(undefined, num_atoms)
    target = np.where(kept, (energy - sums) / np.maximum(num_atoms, 1), np.nan)
    with _named(task.path, "squares of energies per atom (eV) and of forces (eV/Å)"):
        train = _train_sums((task.split == TRAIN) & ~undefined, num_atoms, target, forces)
    return Residuals(
        target, undefined, frozenset(np.unique(numbers[without_reference]).tolist()), train
    )


@contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Say where numbers are that are too large to be added up.

    Raises:
        ValueError: In place of one that does not.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{path}: {what}: {error}; a label there, or in another file where it moved the "
            "references, is far from all others: correct it or leave the structure out"
        ) from error


def _train_sums(
    train: npt.NDArray[np.bool_],
    num_atoms: npt.NDArray[np.int32],
    target: FloatArray,
    forces: npt.NDArray[np.float32],
) -> TrainSums:
    if not train.any():
        return TrainSums.none()
    chosen = target[train]
    # Sums over one structure do not depend on the others; only sums over structures must be exact.
    starts = np.cumsum(num_atoms, dtype=np.int64) - num_atoms
    x, y, z = forces.astype(np.float64).T
    force_abs = np.add.reduceat(np.abs(x) + np.abs(y) + np.abs(z), starts)[train]
    force_square = np.add.reduceat(x * x + y * y + z * z, starts)[train]
    values = (np.abs(chosen), chosen**2, force_abs, force_square)
    quanta = {name: exact_sum(array) for name, array in zip(_SUMS, values, strict=True)}
    return TrainSums(len(chosen), int(num_atoms[train].sum(dtype=np.int64)), quanta)
