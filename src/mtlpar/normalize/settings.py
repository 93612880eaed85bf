"""Settings of the normalize stage."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class NormalizeSettings(BaseModel):
    """How structures are split and what reference energies are fitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    val_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the groups that goes to validation."
    )
    test_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the groups that goes to test."
    )
    official_splits: bool = Field(
        default=True, description="Use a source's own splits where it has them (Transition1x)."
    )

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> NormalizeSettings:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction + test_fraction = {self.val_fraction + self.test_fraction}; "
                "less than 1 is needed to leave structures for training"
            )
        return self
