"""What is to be trained: datasets by branch, and how large a step is."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mtlpar.core.fields import FIELDS
from mtlpar.core.files import read_text
from mtlpar.core.paths import IN_PROJECT

DATASET_SIZES: Final = Path("workflow/dataset_sizes.csv")


# Columns of the table, in the order of `Dataset`.
_NUMBERS: Final = (
    "structures",
    "atoms_per_structure",
    "atoms_variation",
    "edges_per_atom",
    "raw_bytes",
)
_MAY_BE_ZERO: Final = ("atoms_variation", "raw_bytes")


def _record_bytes(level: str) -> int:
    """Bytes of all fields of a structure, or of an atom: packs are not compressed."""
    return sum(field.row_bytes for field in FIELDS.values() if field.level == level)


EDGES_OF_ATOM: Final = 3
"""What an atom takes beside its edges, in edges. By the census of the paper's model it is 6.6 where
arithmetic decides and 1 where memory does."""

PACK_BYTES_PER_ATOM: Final = _record_bytes("atom")
PACK_BYTES_PER_STRUCTURE: Final = _record_bytes("structure")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset, or the datasets of one branch taken together.

    Attributes:
        name: Its name.
        structures: Structures in all.
        atoms_per_structure: Mean number of atoms.
        atoms_variation: Standard deviation of the number of atoms over its mean.
        edges_per_atom: Mean number of neighbours.
        raw_bytes: Bytes to download.
    """

    name: str
    structures: float
    atoms_per_structure: float
    atoms_variation: float = 0.0
    edges_per_atom: float = 15.0
    raw_bytes: float = 0.0

    @property
    def edges_per_structure(self) -> float:
        """Mean number of edges."""
        return self.atoms_per_structure * self.edges_per_atom

    @property
    def work_per_structure(self) -> float:
        """Mean work of a structure, in edges."""
        return self.edges_per_structure + EDGES_OF_ATOM * self.atoms_per_structure

    @property
    def work(self) -> float:
        """Work in all, in edges: what training gives ranks to branches by."""
        return self.structures * self.work_per_structure

    @property
    def bytes_per_structure(self) -> float:
        """Size of a structure in a pack."""
        return PACK_BYTES_PER_ATOM * self.atoms_per_structure + PACK_BYTES_PER_STRUCTURE

    @property
    def pack_bytes(self) -> float:
        """Size of its packs, on disk and in memory."""
        return self.structures * self.bytes_per_structure


@dataclass(frozen=True, slots=True)
class Workload:
    """Branches and the global batch.

    Attributes:
        branches: The dataset of each branch, by its name.
        batch_structures: Structures of one step over all ranks and branches.
    """

    branches: Mapping[str, Dataset]
    batch_structures: float

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every structure is seen once."""
        total = sum(dataset.structures for dataset in self.branches.values())
        return max(1, math.ceil(total / self.batch_structures))

    def structures_per_step(self, branch: str) -> float:
        """Structures of a branch in the global batch: datasets are dealt evenly over the steps."""
        return self.branches[branch].structures / self.steps_per_epoch

    def cost(self) -> dict[str, float]:
        """Cost of the branches, by which they get their ranks."""
        return {branch: dataset.work for branch, dataset in self.branches.items()}


def read_datasets(names: Sequence[str] | None, path: Path = DATASET_SIZES) -> list[Dataset]:
    """Read the table of dataset sizes.

    Args:
        names: Sources to look up, in the order wanted; None for all of the table.
        path: The table.

    Raises:
        ValueError: If it is missing, lacks one of the sources, or a number in it is not one.
    """
    if not path.is_file():
        raise ValueError(f"there is no table of dataset sizes at {path}; {IN_PROJECT}")
    known = {}
    for row in csv.DictReader(io.StringIO(read_text(path), newline="")):
        name = row.get("source") or ""
        known[name] = Dataset(name, *(_number(row, key, path) for key in _NUMBERS))
    if names is None:
        return list(known.values())
    if missing := [name for name in names if name not in known]:
        raise ValueError(
            f"{path} has no sizes of {', '.join(missing)}: add a row for each, or leave it out; "
            f"there are {', '.join(known)}"
        )
    return [known[name] for name in names]


def _number(row: Mapping[str, str | None], key: str, path: Path) -> float:
    text = row.get(key)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and (value > 0 or (value == 0 and key in _MAY_BE_ZERO))):
        raise ValueError(
            f"{path}: {key} of {row.get('source')} is {text!r}, expected a positive number"
        )
    return value


def make_branches(
    datasets: Sequence[Dataset], count: int, *, total_structures: float | None = None
) -> dict[str, Dataset]:
    """As many branches as asked for: the datasets in turn, repeated with a number behind.

    Args:
        datasets: What to take from.
        count: Number of branches.
        total_structures: Scale all of them to this sum.
    """
    taken = {}
    for index, dataset in zip(range(count), itertools.cycle(datasets), strict=False):
        turn = index // len(datasets)
        name = dataset.name if turn == 0 else f"{dataset.name}{turn + 1}"
        taken[name] = replace(dataset, name=name)
    if total_structures is None:
        return taken
    scaled = scale(list(taken.values()), total_structures)
    return dict(zip(taken, scaled, strict=True))


def scale(datasets: Sequence[Dataset], total_structures: float) -> list[Dataset]:
    """The datasets with as many structures in all, and bytes to match."""
    factor = total_structures / sum(dataset.structures for dataset in datasets)
    return [
        replace(
            dataset, structures=dataset.structures * factor, raw_bytes=dataset.raw_bytes * factor
        )
        for dataset in datasets
    ]
