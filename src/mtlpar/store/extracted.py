"""Reads what the extract stage wrote: the parts of a source as one sequence of structures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from mtlpar.core.files import atomic_path, file_digest, missing, read_json
from mtlpar.core.paths import Workspace
from mtlpar.store.bp import BpReader


class ExtractedSource:
    """All extracted structures of one source, in the order of the manifest.

    Attributes:
        manifest: Content of the extract stage's manifest.
        digest: Digest of the manifest, which has digests of all structures.
    """

    def __init__(self, workspace: Workspace, source: str) -> None:
        """Open the source's manifest; parts are opened when they are read."""
        self.folder = workspace.extracted_folder(source)
        self._splits = workspace.splits(source)
        manifest = workspace.extracted_manifest(source)
        self.manifest: dict[str, Any] = read_json(manifest, stage="extract")
        self.digest = file_digest(manifest)
        self.part_paths: list[Path] = [self.folder / p["name"] for p in self.manifest["parts"]]

    def __len__(self) -> int:
        return sum(part["num_structures"] for part in self.manifest["parts"])

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column of all structures."""
        return np.concatenate([BpReader(path).read_column(name) for path in self.part_paths])

    def splits(self) -> npt.NDArray[np.int8]:
        """Where the normalize stage put each structure, (S,): its place in `SPLITS`, -1 for none.

        Raises:
            ValueError: If it did not run, or not on these structures.
        """
        try:
            with self._splits.open("rb") as file, np.load(file, allow_pickle=False) as content:
                split: npt.NDArray[np.int8] = content["split"]
                extracted = str(content["extracted"])
        except FileNotFoundError:
            raise ValueError(missing(self._splits, "normalize")) from None
        except (EOFError, KeyError, TypeError, ValueError, BadZipFile) as error:
            raise ValueError(
                f"{self._splits} is damaged ({error}); run the normalize stage again"
            ) from error
        if extracted != self.digest:
            raise ValueError(
                f"{self._splits} is of other extracted structures than those in {self.folder}; "
                "run the normalize stage again"
            )
        return split

    def write_splits(self, split: npt.NDArray[np.int8]) -> None:
        """Write down where each structure belongs, and that it is about these structures."""
        with atomic_path(self._splits) as temporary, temporary.open("wb") as stream:
            np.savez(stream, split=split, extracted=np.array(self.digest))

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
