"""Settings of the extract stage."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from mtlpar.sources.settings import SourceSettings


class ExtractSettings(BaseModel):
    """How raw files become columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_force_ev_per_angstrom: float = Field(
        default=1000.0,
        gt=0,
        description="A structure with a longer force vector (eV/Å) on any atom is dropped and "
        "counted; 1000 is the paper's limit.",
    )
    part_structures: int = Field(
        default=200_000,
        gt=0,
        description="Structures per extracted .bp part; bounds the memory of the stage.",
    )
    labels: SourceSettings = Field(
        default=SourceSettings(), description="Which labels to read where a source offers several."
    )
