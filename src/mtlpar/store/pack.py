"""A pack: the shuffled structures of one split of one source, with all that explains them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self

from mtlpar.core.paths import Workspace
from mtlpar.core.records import Count, Digest, Record, check_expected, read_record
from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch
from mtlpar.store.bp import BpReader
from mtlpar.store.header import BpHeader, PackHeader, SchemaVersion

_AGAIN: Final = "put back the packs of this source with their manifests, or run mtlpar pack again"


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


def manifest_path(pack: Path) -> Path:
    """Where the manifest of a pack lies."""
    return pack.with_suffix(".manifest.json")


def check_manifest(folder: BpReader[Any]) -> None:
    """Compare a pack with the manifest beside it; what has none is taken as it is.

    Raises:
        ValueError: If the manifest is damaged, or is about another pack than this one.
    """
    path = manifest_path(folder.path)
    if folder.header.split is None or not path.exists():
        return
    header = folder.header
    check_expected(
        read_record(path, PackManifest, stage="pack"),
        {
            "source": header.source,
            "split": header.split,
            "num_structures": header.num_structures,
            "num_atoms": header.num_atoms,
            "data_digest": folder.data_digest,
        },
        where=f"{path} and the {folder.path.name} beside it differ",
        advice=_AGAIN,
    )


def open_folder(path: Path) -> BpReader[BpHeader]:
    """Open any ``.bp`` folder, as `BpReader` does; a pack is compared with the manifest beside it.

    Raises:
        ValueError: If it cannot be opened, or the manifest is that of another pack.
    """
    folder = BpReader(path)
    check_manifest(folder)
    return folder


class Pack(BpReader[PackHeader]):
    """An open pack: read its header, its blocks or slices of structures.

    Attributes:
        path: The folder.
        header: What it says about itself.
    """

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a pack; nothing but its header is read, and its manifest if there is one.

        Raises:
            ValueError: If it is missing, foreign, truncated, damaged or of another version, if it
                is no pack, or if the manifest beside it is that of another one.
        """
        pack = cls(path, PackHeader, stage="pack")
        check_manifest(pack)
        return pack

    @classmethod
    def of(cls, workspace: Workspace, source: str, split: str) -> Self:
        """Open the pack of a split that a stage is about to use, and make sure that it is that one.

        Args:
            workspace: Paths of all products.
            source: Name of the source.
            split: Name of the split.

        Raises:
            ValueError: If it cannot be opened, has no manifest, or belongs elsewhere.
        """
        pack = cls.open(workspace.pack(source, split))
        check_expected(
            pack.manifest,
            {"source": source, "split": split},
            where=str(manifest_path(pack.path)),
            advice=_AGAIN,
        )
        return pack

    def check_beside(self, other: Pack) -> None:
        """Make sure that another pack of the source was made of the same splits as this one.

        Raises:
            ValueError: If it was not: one may hold what is kept for tests from the other's model.
        """
        if other.manifest.training_digest != self.manifest.training_digest:
            raise ValueError(
                f"{self.path} and {other.path} were made of different splits, labels or references "
                f"(training digest {self.manifest.training_digest[:12]} and "
                f"{other.manifest.training_digest[:12]}); {_AGAIN}"
            )

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
        return read_record(manifest_path(self.path), PackManifest, stage="pack")
