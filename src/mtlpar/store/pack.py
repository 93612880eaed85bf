"""A pack: the shuffled structures of one split of one source, with all that explains them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from mtlpar.core.records import Count, Digest, Record, read_record
from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch
from mtlpar.store.bp import BpReader
from mtlpar.store.header import PackHeader, SchemaVersion


class PackManifest(Record):
    """Counts and checksums of a pack; it lies beside the pack and is written last.

    Attributes:
        source: Name of the source.
        split: Name of the split.
        schema_version: Version of the pack's layout.
        num_structures: Structures in the pack.
        num_atoms: Atoms in the pack.
        data_digest: Digest of all columns of the pack.
        training_digest: One digest of all that a model learns from the source: structures, labels
            and references. Every pack of the source has it, that of the test split too, so that a
            model can be tested where the others are not.
    """

    source: str
    split: Literal["train", "val", "test"]
    schema_version: SchemaVersion
    num_structures: Count
    num_atoms: Count
    data_digest: Digest
    training_digest: Digest


class Pack(BpReader[PackHeader]):
    """An open pack: read its header, its blocks or slices of structures.

    Attributes:
        path: The folder.
        header: What it says about itself.
    """

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a pack; nothing but its header is read.

        Raises:
            ValueError: If it is missing, foreign, truncated, damaged or of another version, or if
                it is no pack.
        """
        return cls(path, PackHeader, stage="pack")

    def first(self, count: int) -> StructureBatch:
        """At most so many structures of the first block; they are a sample, for all are shuffled.

        Raises:
            ValueError: If the block is damaged.
        """
        # A block says by itself where its structures lie; a large pack would read that of all.
        block = self.read_block(0)
        return block.slice(0, min(count, len(block)))

    def use_references(self, references: References) -> None:
        """Give targets relative to other reference energies from now on.

        What the header says of the size of targets stays: it is that of the pack's own.
        """
        plain = {"references_ev": dict(references.energies_ev)}
        # A copy would keep the references that were looked at before.
        self.header = type(self.header).model_validate({**self.header.model_dump(), **plain})

    @cached_property
    def manifest(self) -> PackManifest:
        """What lies beside the pack and says what it was made of.

        Raises:
            ValueError: If it is missing or damaged.
        """
        path = self.path.with_suffix(".manifest.json")
        return read_record(path, PackManifest, stage="pack")
