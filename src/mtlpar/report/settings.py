"""Settings of the report stage."""

from __future__ import annotations

from pydantic import Field

from mtlpar.core.settings import Settings


class ReportSettings(Settings):
    """How tables and figures look."""

    dpi: int = Field(default=150, gt=0, description="Resolution of the figures, in dots per inch.")
    parity_models: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Models to show in the parity plots, a row each; null: all that learn from "
        "more than one source.",
    )
