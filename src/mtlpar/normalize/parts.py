"""What is done with each extracted part, in any process: it reads columns and returns sums."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.composition import hash_compositions
from mtlpar.core.error_names import MEAN_ABS_NAMES, RMS_NAMES
from mtlpar.core.fields import FIELDS, LABELS, Level
from mtlpar.core.hashing import UInt64Array
from mtlpar.core.references import reference_sums
from mtlpar.normalize.exact import exact_sum, from_quanta
from mtlpar.normalize.fit import Moments, gather_moments
from mtlpar.normalize.split import DROPPED, TRAIN, SplitArray
from mtlpar.store.bp import BpReader

FloatArray = npt.NDArray[np.float64]

_SUMS: Final = tuple(f"{label}_{what}" for label in LABELS for what in ("abs", "square"))


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
    """Exact sums over the labels of training structures: the same for any partition.

    Attributes:
        structures: Number of structures, whatever labels they have.
        components: Numbers that labels have in all, by label.
        quanta: Sums by name in 2^-57 of their unit (eV/atom, eV/Å, eV/Å^3 and their squares).
    """

    structures: int
    components: dict[str, int]
    quanta: dict[str, int]

    @classmethod
    def none(cls) -> TrainSums:
        """The sums over no structure."""
        return cls(0, dict.fromkeys(LABELS, 0), dict.fromkeys(_SUMS, 0))

    def __add__(self, other: TrainSums) -> TrainSums:
        return TrainSums(
            self.structures + other.structures,
            {label: self.components[label] + other.components[label] for label in LABELS},
            {name: self.quanta[name] + other.quanta[name] for name in _SUMS},
        )

    def statistics(self) -> dict[str, float]:
        """Size of the labels that there are: what predicting zero would cost."""
        total = {name: from_quanta(quanta) for name, quanta in self.quanta.items()}
        statistics = {}
        for label, count in self.components.items():
            if count:
                statistics[MEAN_ABS_NAMES[label]] = total[f"{label}_abs"] / count
                statistics[RMS_NAMES[label]] = (total[f"{label}_square"] / count) ** 0.5
        return statistics


@dataclass(frozen=True, slots=True)
class Residuals:
    """What is left of a part's energies without references.

    Attributes:
        target_ev_per_atom: (S,) NaN where the structure is dropped, has no energy, or has an
            element without a reference.
        composition: Hash of the composition of each structure, (S,).
        undefined: Whether a structure with an energy has an element without a reference, (S,).
        undefined_elements: Atomic numbers of these elements.
        train: Sums over the training structures.
    """

    target_ev_per_atom: FloatArray
    composition: UInt64Array
    undefined: npt.NDArray[np.bool_]
    undefined_elements: frozenset[int]
    train: TrainSums


def part_moments(task: MomentsTask) -> Moments:
    """Sufficient statistics of the training structures of a part."""
    with BpReader(task.path) as reader:
        chosen = (task.split == TRAIN) & (reader.read_column("energy_mask") != 0)
        if not chosen.any():
            return Moments.none()
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
        labels = {name: reader.read_column(name) for name in ("forces", "stress")}
        has = {label: reader.read_column(f"{label}_mask") != 0 for label in LABELS}
    sums = reference_sums(task.table, num_atoms, numbers)
    with_energy = kept & has["energy"]
    undefined = with_energy & np.isnan(sums)
    without_reference = np.isnan(task.table[numbers]) & np.repeat(undefined, num_atoms)
    target = np.where(with_energy, (energy - sums) / np.maximum(num_atoms, 1), np.nan)
    chosen = (task.split == TRAIN) & ~undefined
    with _named(task.path, "squares of energies per atom (eV), forces (eV/Å), stresses (eV/Å^3)"):
        train = _train_sums(
            {label: chosen & rows for label, rows in has.items()},
            int(chosen.sum()),
            num_atoms,
            {"energy": target, **labels},
        )
    return Residuals(
        target,
        hash_compositions(num_atoms, numbers),
        undefined,
        frozenset(np.unique(numbers[without_reference]).tolist()),
        train,
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
    train: dict[str, npt.NDArray[np.bool_]],
    structures: int,
    num_atoms: npt.NDArray[np.int32],
    values: dict[str, npt.NDArray[np.floating]],
) -> TrainSums:
    """Sums over training structures.

    Args:
        train: Training structures that have each label, (S,).
        structures: Training structures.
        num_atoms: Atoms per structure, (S,).
        values: Each label: energies per atom (S,), forces (A, 3) and stresses (S, 6).
    """
    total = TrainSums.none()
    total.structures = structures
    for label, chosen in train.items():
        if not chosen.any():
            continue
        sizes, squares = _sizes_of_structures(values[label], num_atoms, FIELDS[label].level)
        total.quanta[f"{label}_abs"] = exact_sum(sizes[chosen])
        total.quanta[f"{label}_square"] = exact_sum(squares[chosen])
        rows = num_atoms[chosen].sum(dtype=np.int64) if label == "forces" else chosen.sum()
        total.components[label] = int(rows) * math.prod(FIELDS[label].shape)
    return total


def _sizes_of_structures(
    values: npt.NDArray[np.floating], num_atoms: npt.NDArray[np.int32], level: Level
) -> tuple[FloatArray, FloatArray]:
    """Sums of sizes and of squares of a label's components over each structure, (S,) each."""
    columns = values.astype(np.float64).reshape(len(values), -1).T
    sizes = sum(np.abs(column) for column in columns)
    squares = sum(column * column for column in columns)
    if level == "structure":
        return np.asarray(sizes), np.asarray(squares)
    # Sums over one structure do not depend on the others; only sums over structures must be exact.
    starts = np.cumsum(num_atoms, dtype=np.int64) - num_atoms
    return np.add.reduceat(sizes, starts), np.add.reduceat(squares, starts)
