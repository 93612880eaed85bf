"""Settings of the neighbour graph."""

from __future__ import annotations

from pydantic import Field

from mtlpar.core.settings import Settings


class GraphSettings(Settings):
    """Which atoms see each other. A training option: no pack depends on it."""

    cutoff_angstrom: float = Field(
        default=5.0,
        gt=0,
        description="Atoms closer than this (Å) exchange messages. No pack depends on it.",
    )
    max_neighbors: int | None = Field(
        default=None,
        gt=0,
        description="Keep only this many nearest neighbours per atom, as the paper does with 20. "
        "Energies then jump when neighbours change order; leave empty for a smooth model.",
    )
