"""Settings of encoder and heads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mtlpar.core.settings import Settings
from mtlpar.graph.settings import GraphSettings


class EncoderSettings(Settings):
    """Architecture and size of the shared encoder."""

    kind: Literal["egnn", "painn"] = Field(
        default="egnn",
        description="Architecture of the encoder: egnn is the paper's, painn has scalar and "
        "vector features of equal width.",
    )
    width: int = Field(
        default=64,
        gt=0,
        description="Scalar features of each atom, which set the size of the encoder.",
    )
    layers: int = Field(
        default=4,
        gt=0,
        description="Number of message-passing layers. An atom is affected by others up to "
        "layers x cutoff away.",
    )
    vector_channels: int = Field(
        default=16,
        gt=0,
        description="Equivariant vectors per atom and layer of egnn; painn has `width` of them.",
    )
    radial_basis: int = Field(
        default=16,
        gt=0,
        description="Radial functions that describe an edge: half of them of its length, half of "
        "its length by the size of its atoms.",
    )
    charge_and_spin: bool = Field(
        default=False,
        description="Tell the encoder a structure's total charge and spin multiplicity. A spin "
        "that the source does not state has an embedding of its own.",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Compute each layer's edge features again in the backward pass instead of "
        "keeping them: least memory for about a third more time.",
    )


class HeadSettings(Settings):
    """Energy head and forces of every branch."""

    width: int = Field(default=64, gt=0, description="Features of each hidden layer of a head.")
    layers: int = Field(default=2, gt=0, description="Number of hidden layers of a head.")
    energy: Literal["sum", "mean"] = Field(
        default="sum",
        description="How atoms make up the total energy: by their sum, which makes it "
        "extensive, or by their mean.",
    )
    forces: Literal["equivariant", "conservative"] = Field(
        default="equivariant",
        description="equivariant: a head predicts forces directly, which is fastest; "
        "conservative: minus the gradient of the energy, with stress its strain derivative.",
    )


class ModelSettings(Settings):
    """Architecture that all named models share."""

    graph: GraphSettings = Field(default=GraphSettings(), description="Neighbour graph.")
    encoder: EncoderSettings = Field(default=EncoderSettings(), description="Shared encoder.")
    head: HeadSettings = Field(default=HeadSettings(), description="Heads of a branch.")
