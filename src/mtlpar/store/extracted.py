"""Reads what the extract stage wrote: the parts of a source as one sequence of structures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from mtlpar.core.fields import FIELDS, LABELS, SPLITS
from mtlpar.core.files import atomic_path, file_digest, missing
from mtlpar.core.first_bytes import refuse_stand_in
from mtlpar.core.hashing import json_digest, mix64
from mtlpar.core.paths import Workspace
from mtlpar.core.products import ExtractedManifest
from mtlpar.core.records import read_record
from mtlpar.store.bp import BpReader
from mtlpar.store.header import BpHeader

_NORMALIZE: Final = "run mtlpar normalize again"


class ExtractedSource:
    """All extracted structures of one source, in the order of the manifest.

    Attributes:
        manifest: Content of the extract stage's manifest.
        digest: Digest of the manifest, which has digests of all structures.
    """

    def __init__(self, workspace: Workspace, source: str) -> None:
        """Open the source's manifest; parts are opened when they are read.

        Raises:
            ValueError: If there is none, or it is damaged or that of another source.
        """
        self.folder = workspace.extracted_folder(source)
        self._splits = workspace.splits(source)
        manifest = workspace.extracted_manifest(source)
        self.manifest = read_record(
            manifest, ExtractedManifest, stage="extract", expected={"source": source}
        )
        self.digest = file_digest(manifest)
        self.part_paths: list[Path] = [self.folder / one.name for one in self.manifest.parts]

    def __len__(self) -> int:
        return sum(part.num_structures for part in self.manifest.parts)

    def columns(self, *names: str) -> dict[str, npt.NDArray[Any]]:
        """Columns of all structures by name, (S, ...); each part is opened once for all of them."""
        wanted = {name: FIELDS[name] for name in names}
        columns = {
            name: np.empty((len(self), *field.shape), field.dtype) for name, field in wanted.items()
        }
        for path, rows in self.cut(np.arange(len(self))):
            with BpReader(path) as reader:
                for name, column in columns.items():
                    column[rows] = reader.read_column(name)
        return columns

    def has_labels(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Which structures have each label, (S,)."""
        masks = self.columns(*(f"{label}_mask" for label in LABELS))
        return {label: masks[f"{label}_mask"] != 0 for label in LABELS}

    def splits(self) -> npt.NDArray[np.int8]:
        """Where the normalize stage put each structure, (S,): its place in `SPLITS`, -1 for none.

        Raises:
            ValueError: If it did not run, or not on these structures.
        """
        try:
            with self._splits.open("rb") as file, NpzFile(file) as content:
                split: npt.NDArray[np.int8] = content["split"]
                extracted = str(content["extracted"])
        except FileNotFoundError:
            raise ValueError(missing(self._splits, "normalize")) from None
        # Damaged bytes of an archive are sizes, flags and methods: there is little that it spares.
        except Exception as error:
            refuse_stand_in(self._splits)
            cause = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{self._splits} is damaged ({cause}); {_NORMALIZE}") from error
        if extracted != self.digest:
            raise ValueError(
                f"{self._splits} is of other extracted structures than those in {self.folder}; "
                f"{_NORMALIZE}"
            )
        known = range(-1, len(SPLITS))
        if split.dtype != np.int8 or split.shape != (len(self),) or not np.isin(split, known).all():
            raise ValueError(
                f"{self._splits} is damaged: split is {split.dtype} of shape {split.shape}, "
                f"expected int8 of shape ({len(self)},) from -1 to {len(SPLITS) - 1}; {_NORMALIZE}"
            )
        return split

    def train_digest(self, split: npt.NDArray[np.int8]) -> str:
        """Digest of the training structures by splits (S,) and their energies, in any order."""
        count, total = 0, np.uint64(0)
        for path, part in self.cut(split):
            with BpReader(path) as reader:
                energy = mix64(reader.read_column("energy").view(np.uint64))
                hashes = mix64(reader.read_column("structure_id") + energy)
            in_train = part == SPLITS.index("train")
            count += int(in_train.sum())
            total = np.add(total, hashes[in_train].sum(dtype=np.uint64))
        return json_digest([count, int(total)])

    def check_parts(self) -> None:
        """Compare what lies in the folder with the manifest, before anything is read of it.

        Raises:
            ValueError: If a part is missing, damaged, or not the one that was extracted.
        """
        for path, part in zip(self.part_paths, self.manifest.parts, strict=True):
            with BpReader(path, BpHeader, stage="extract") as reader:
                found = (len(reader), reader.num_atoms, reader.data_digest)
            expected = (part.num_structures, part.num_atoms, part.data_digest)
            if found != expected:
                raise ValueError(
                    f"{path} is not the part of that name in {self.folder / 'manifest.json'}: "
                    f"structures, atoms and digest are {found}, expected {expected}; run mtlpar "
                    "extract again"
                )

    def write_splits(self, split: npt.NDArray[np.int8]) -> None:
        """Write down where each structure belongs, and that it is about these structures."""
        with atomic_path(self._splits) as temporary, temporary.open("wb") as stream:
            np.savez(stream, split=split, extracted=np.array(self.digest))

    def cut(self, rows: npt.NDArray[Any]) -> Iterator[tuple[Path, npt.NDArray[Any]]]:
        """Cut rows of all structures (S, ...) into those of each part, in order."""
        first = 0
        for path, part in zip(self.part_paths, self.manifest.parts, strict=True):
            yield path, rows[first : first + part.num_structures]
            first += part.num_structures

    def groups_of_parts(self, max_structures: int) -> Iterator[tuple[tuple[Path, ...], int]]:
        """Yield consecutive parts that hold at most ``max_structures`` together, and their number.

        A part that alone holds more is a group of its own.
        """
        group: list[Path] = []
        count = 0
        for path, part in zip(self.part_paths, self.manifest.parts, strict=True):
            if group and count + part.num_structures > max_structures:
                yield tuple(group), count
                group, count = [], 0
            group.append(path)
            count += part.num_structures
        if group:
            yield tuple(group), count
