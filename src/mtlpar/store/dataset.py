"""One split of one source in memory, with the targets that a model learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch
from mtlpar.store.bp import BpReader


class PackedDataset:
    """A pack, read once in a contiguous slice.

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
        self.target_ev_per_atom: npt.NDArray[np.float64] = self.references.to_target(
            self.structures
        )

    def __len__(self) -> int:
        return len(self.structures)
