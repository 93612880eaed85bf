"""Settings of the pack stage."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PackSettings(BaseModel):
    """How splits are written for training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_structures: int = Field(
        default=16_384, gt=0, description="Structures written at a time; bounds the memory."
    )
