"""Settings of the pack stage."""

from __future__ import annotations

from pydantic import Field

from mtlpar.core.settings import Settings


class PackSettings(Settings):
    """How splits are written for training."""

    block_structures: int = Field(
        default=16_384,
        gt=0,
        description="Structures in each block, which is written at once and has checksums of "
        "its own. Bounds the memory of the stage.",
    )
    shares: int = Field(
        default=1,
        gt=0,
        description="Number of jobs over which Snakemake spreads the sorting of one source. The "
        "result does not depend on it.",
    )
