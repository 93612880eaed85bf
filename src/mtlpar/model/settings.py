"""Settings of encoder and heads."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from mtlpar.graph.settings import GraphSettings


class EncoderSettings(BaseModel):
    """Size of the shared encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=64, gt=0, description="Scalar features per atom.")
    layers: int = Field(default=4, gt=0, description="Message-passing layers.")
    vector_channels: int = Field(
        default=8, gt=0, description="Equivariant vectors per atom and layer."
    )
    radial_basis: int = Field(
        default=16, gt=0, description="Radial functions that describe a distance."
    )


class HeadSettings(BaseModel):
    """Size of the energy head and of the force head of every branch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=64, gt=0, description="Features of the hidden layers.")
    layers: int = Field(default=2, gt=0, description="Hidden layers.")


class ModelSettings(BaseModel):
    """Architecture that all named models share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: GraphSettings = Field(default=GraphSettings(), description="Neighbour graph.")
    encoder: EncoderSettings = Field(default=EncoderSettings(), description="Shared encoder.")
    head: HeadSettings = Field(default=HeadSettings(), description="Heads of a branch.")
