"""One split of one source in memory, with the targets that a model learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch, iterate_slices
from mtlpar.store.bp import BpReader

FloatArray = npt.NDArray[np.float64]


class StructureStore(Protocol):
    """Random access to the structures of one split, wherever they lie.

    ``gather`` may be called from several threads at once.
    """

    @property
    def num_atoms(self) -> npt.NDArray[np.int32]:
        """Atoms of every structure, (S,)."""

    def __len__(self) -> int: ...

    def gather(self, indices: npt.NDArray[np.int64]) -> tuple[StructureBatch, FloatArray]:
        """Copy the structures at ``indices``, in that order, with their targets in eV/atom."""


# Targets are computed in slices: the float64 of every atom at once would take half as much again.
_SLICE_STRUCTURES: Final = 200_000


class PackedDataset:
    """A pack in the memory of this process, read once in a contiguous slice.

    Attributes:
        source: Name of the source.
        attributes: What the pack says about itself.
        references: Reference energies that its targets leave out.
        structures: All structures of the split.
        target_ev_per_atom: (S,) energy per atom without references, computed in float64.
    """

    def __init__(self, path: Path) -> None:
        """Read a pack.

        Raises:
            ValueError: If the pack is missing, foreign or damaged.
        """
        with BpReader(path) as reader:
            self.attributes: dict[str, Any] = reader.attributes
            self.structures: StructureBatch = reader.read()
        self.source = str(self.attributes["source"])
        self.references = References.from_dict(self.attributes["references_ev"])
        self.target_ev_per_atom: FloatArray = np.concatenate(
            [
                self.references.to_target(self.structures.slice(start, stop))
                for start, stop in iterate_slices(len(self), _SLICE_STRUCTURES)
            ]
        )

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def num_atoms(self) -> npt.NDArray[np.int32]:
        """Atoms of every structure, (S,)."""
        return self.structures.num_atoms

    def gather(self, indices: npt.NDArray[np.int64]) -> tuple[StructureBatch, FloatArray]:
        """Copy the structures at ``indices``, in that order, with their targets in eV/atom."""
        return self.structures.take(indices), self.target_ev_per_atom[indices]
