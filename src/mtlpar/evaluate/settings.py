"""Settings of the evaluate stage."""

from __future__ import annotations

from pydantic import Field

from mtlpar.core.settings import Settings


class EvaluateSettings(Settings):
    """How test errors are computed."""

    batch_atoms: int = Field(
        default=4096,
        gt=0,
        description="Atoms to predict at a time. Lower it if memory runs out; errors do not "
        "depend on it.",
    )
    parity_structures: int = Field(
        default=2000, gt=0, description="How many structures at most a parity plot shows."
    )
