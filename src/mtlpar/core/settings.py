"""What all settings have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
"""A number above zero, as a value in a mapping."""

Weight = Annotated[float, Field(ge=0)]
"""A number that is not negative, as a value in a mapping."""


class Settings(BaseModel):
    """A block of settings: it never changes, knows all its keys, and holds finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
