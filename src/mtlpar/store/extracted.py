"""Reads what the extract stage wrote: the parts of a source as one sequence of structures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtlpar.core.files import read_json
from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.store.bp import BpReader


class ExtractedSource:
    """All extracted structures of one source, in the order of the manifest.

    Attributes:
        manifest: Content of the extract stage's manifest.
    """

    def __init__(self, workspace: Workspace, source: str) -> None:
        """Open the source's manifest; parts are opened when they are read."""
        self.folder = workspace.extracted_folder(source)
        self.manifest: dict[str, Any] = read_json(workspace.extracted_manifest(source))
        self.part_paths: list[Path] = [self.folder / p["name"] for p in self.manifest["parts"]]

    def __len__(self) -> int:
        return sum(part["num_structures"] for part in self.manifest["parts"])

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column of all structures."""
        return np.concatenate([BpReader(path).read_column(name) for path in self.part_paths])

    def cut(self, rows: npt.NDArray[Any]) -> Iterator[tuple[Path, npt.NDArray[Any]]]:
        """Cut rows of all structures (S, ...) into those of each part, in order."""
        first = 0
        for path, part in zip(self.part_paths, self.manifest["parts"], strict=True):
            yield path, rows[first : first + part["num_structures"]]
            first += part["num_structures"]

    def groups_of_parts(self, max_structures: int) -> Iterator[tuple[tuple[Path, ...], int]]:
        """Yield consecutive parts that hold at most ``max_structures`` together, and their number.

        A part that alone holds more is a group of its own.
        """
        group: list[Path] = []
        count = 0
        for path, part in zip(self.part_paths, self.manifest["parts"], strict=True):
            if group and count + part["num_structures"] > max_structures:
                yield tuple(group), count
                group, count = [], 0
            group.append(path)
            count += part["num_structures"]
        if group:
            yield tuple(group), count

    def iterate(
        self, keep: npt.NDArray[np.bool_], *, block_structures: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], StructureBatch]]:
        """Yield the structures marked by ``keep`` (S,) in order, with their positions."""
        first = 0
        for path in self.part_paths:
            with BpReader(path) as reader:
                for batch in reader.iterate(block_structures):
                    chosen = np.flatnonzero(keep[first : first + len(batch)])
                    if len(chosen):
                        yield first + chosen, batch.take(chosen)
                    first += len(batch)
