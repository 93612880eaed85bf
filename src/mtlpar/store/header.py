"""What a ``.bp`` folder says about itself."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from mtlpar.core.ledger import SplitBy
from mtlpar.core.products import TrainStatistics
from mtlpar.core.records import Count, Digest, Record, Symbol
from mtlpar.core.references import References

SCHEMA_VERSION: Final = 3


def _is_current(version: int) -> int:
    if version != SCHEMA_VERSION:
        raise ValueError(f"expected {SCHEMA_VERSION}: another version of mtlpar wrote it")
    return version


SchemaVersion = Annotated[int, AfterValidator(_is_current)]


Number = int | float
Row = Number | list[Number] | list[list[Number]]
"""What a structure has in one column."""


class Blocks(Record):
    """Rows of each block, which has a checksum for each column."""

    num_structures: tuple[Count, ...]
    num_atoms: tuple[Count, ...]


class BpHeader(Record):
    """Header of any folder: what its writer said of it, and how its columns are laid out.

    Attributes:
        source: Name of the source.
        seed: Seed of the shuffling.
        split_by: What was dealt to the splits.
        leaky: Whether frames of one molecule or material lie in several splits.
        num_labels: Structures that have each label.
        level_of_theory: Level of theory of the labels.
        references_ev: Reference energies in eV by chemical symbol.
        train_statistics: Size of the targets of train, the same in all splits.
        raw_files: SHA-256 of each raw file by name.
        split: Name of the split.
        raw_file: The one raw file that a part was extracted from.
        raw_sha256: Its SHA-256.
        schema_version: Version of this layout.
        num_structures: Structures in the folder.
        num_atoms: Atoms in the folder.
        fields: Names of the columns.
        constants: Rows of the columns that are alike in all structures, by name.
        blocks: Rows of each block.
    """

    source: str | None = None
    seed: int | None = None
    split_by: SplitBy | None = None
    leaky: bool = False
    num_labels: dict[str, Count] | None = None
    level_of_theory: str | None = None
    references_ev: dict[Symbol, float] | None = None
    train_statistics: TrainStatistics | None = None
    raw_files: dict[str, Digest] | None = None
    split: str | None = None
    raw_file: str | None = None
    raw_sha256: Digest | None = None
    schema_version: SchemaVersion
    num_structures: int = Field(ge=1)
    num_atoms: Count
    fields: tuple[str, ...]
    constants: dict[str, Row]
    blocks: Blocks

    @model_validator(mode="after")
    def _adds_up(self) -> BpHeader:
        for key, total in (("num_structures", self.num_structures), ("num_atoms", self.num_atoms)):
            rows = sum(getattr(self.blocks, key))
            if rows != total:
                raise ValueError(f"expected blocks.{key} to add up to {total}, got {rows}")
        if len(self.blocks.num_structures) != len(self.blocks.num_atoms):
            raise ValueError("expected as many blocks.num_structures as blocks.num_atoms")
        return self

    @property
    def atoms_per_structure(self) -> float:
        """Mean number of atoms."""
        return self.num_atoms / self.num_structures

    @cached_property
    def references(self) -> References:
        """Reference energies that targets leave out; of no element if it has none."""
        return References(self.references_ev or {})


class PackHeader(BpHeader):
    """Header of a pack: all that a model needs to know of a source is in it."""

    source: str
    seed: int
    split_by: SplitBy
    leaky: bool
    num_labels: dict[str, Count]
    level_of_theory: str
    references_ev: dict[Symbol, float]
    train_statistics: TrainStatistics
    raw_files: dict[str, Digest]
    split: Literal["train", "val", "test"]
    raw_file: None = None
    raw_sha256: None = None
