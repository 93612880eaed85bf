"""Settings of the evaluate stage."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class EvaluateSettings(BaseModel):
    """How test errors are computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_atoms: int = Field(default=4096, gt=0, description="Atoms predicted at a time.")
    parity_structures: int = Field(
        default=2000, gt=0, description="Structures kept at most for a parity plot."
    )
