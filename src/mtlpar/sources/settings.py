"""Choices that a reader leaves to the user."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SourceSettings(BaseModel):
    """Which of several labels of one source to read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mptrj_energy: Literal["uncorrected", "corrected"] = Field(
        default="uncorrected",
        description="MPTrj: raw DFT energy, or with MP2020 corrections (discontinuous between "
        "classes of compounds).",
    )
    qm7x_dispersion: bool = Field(
        default=True,
        description="QM7-X: PBE0+MBD energies with their total forces, or PBE0 without dispersion.",
    )
