"""Settings of the extract stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mtlpar.core.settings import Settings
from mtlpar.sources.settings import SourceSettings


class PhysicsSettings(Settings):
    """What counts as suspicious; such structures are kept, counted and reported."""

    min_distance_angstrom: float = Field(
        default=0.5, gt=0, description="Atoms or images closer than this (Å) are counted."
    )
    max_net_force_ev_per_angstrom: float = Field(
        default=0.1, gt=0, description="Structures whose forces (eV/Å) add up to more are counted."
    )
    wrong_slope: Literal["error", "warn"] = Field(
        default="error",
        description="What to do if energies do not change as the forces say: then units or "
        "signs are wrong, in the files or in the reader.",
    )


class ExtractSettings(Settings):
    """How raw files become columns."""

    max_force_ev_per_angstrom: float = Field(
        default=1000.0,
        gt=0,
        description="A structure with a longer force vector (eV/Å) on any atom is dropped and "
        "counted; 1000 is the paper's limit.",
    )
    on_error: Literal["raise", "skip"] = Field(
        default="raise",
        description="What to do about a damaged raw file. raise: stop the stage; skip: leave "
        "out only what cannot be read, which the manifest lists, and counts where "
        "its rows are known.",
    )
    part_structures: int = Field(
        default=200_000,
        gt=0,
        description="Structures in each part, a .bp folder, of the extraction. Bounds the "
        "memory of the stage.",
    )
    piece_bytes: int = Field(
        default=256_000_000,
        gt=0,
        description="A raw file is read in pieces of about this size, side by side if there are "
        "processes for it; the structures and their order do not depend on it.",
    )
    shares: int = Field(
        default=1,
        gt=0,
        description="Number of jobs over which Snakemake spreads one source. The result does "
        "not depend on it.",
    )
    labels: SourceSettings = Field(
        default=SourceSettings(), description="Which labels to read where a source offers several."
    )
    physics: PhysicsSettings = Field(
        default=PhysicsSettings(), description="Physics checks, which count and do not drop."
    )
