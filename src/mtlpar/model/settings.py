"""Settings of encoder and heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from mtlpar.core.settings import WRONG_KIND, Settings, without_nulls
from mtlpar.graph.settings import GraphSettings

_KIND: Final = (
    "Architecture of the encoder: egnn is the paper's, painn has scalar and vector features of "
    "equal width."
)


class EncoderSettings(Settings):
    """Size of the shared encoder: what every architecture has. Each adds what only it has."""

    kind: str = Field(description=_KIND)
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


ActivationCheckpointing = Annotated[
    bool,
    Field(
        description="Compute each layer's edge features again in the backward pass instead of "
        "keeping them: least memory for about a third more time."
    ),
]


class EgnnSettings(EncoderSettings):
    """The paper's encoder, which is meant where no kind is given."""

    kind: Literal["egnn"] = Field(default="egnn", description=_KIND)
    vector_channels: int = Field(
        default=16, gt=0, description="Equivariant vectors per atom and layer."
    )
    activation_checkpointing: ActivationCheckpointing = False


class PainnSettings(EncoderSettings):
    """PaiNN; it has as many equivariant vectors as scalars."""

    kind: Literal["painn"] = Field(description=_KIND)
    activation_checkpointing: ActivationCheckpointing = False


def _kind_of(block: Any) -> Any:
    if isinstance(block, Mapping):
        return block.get("kind", "egnn")
    return getattr(block, "kind", "egnn")


AnyEncoder = Annotated[
    Annotated[EgnnSettings, Tag("egnn")] | Annotated[PainnSettings, Tag("painn")],
    Discriminator(
        _kind_of,
        custom_error_type=WRONG_KIND,
        custom_error_message="kind should be 'egnn' or 'painn'",
    ),
    BeforeValidator(without_nulls),
]
"""Settings of an encoder of any kind. A setting of another kind that an earlier file has is taken
away by null."""


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
    isolated_atoms: Literal["learned", "reference"] = Field(
        default="learned",
        description="Energies of atoms without neighbours. learned: what the branch extrapolates "
        "to; reference: exactly their reference energies, for references that are energies of "
        "isolated atoms (custom_sources.*.isolated_atoms). Not with charge_and_spin.",
    )


class ModelSettings(Settings):
    """Architecture that all named models share."""

    graph: GraphSettings = Field(default=GraphSettings(), description="Neighbour graph.")
    encoder: AnyEncoder = Field(default=EgnnSettings(), description="Shared encoder.")
    head: HeadSettings = Field(default=HeadSettings(), description="Heads of a branch.")

    @model_validator(mode="after")
    def _isolated_atoms_have_one_energy(self) -> ModelSettings:
        if self.head.isolated_atoms == "reference" and self.encoder.charge_and_spin:
            raise ValueError(
                "head.isolated_atoms reference: expected encoder.charge_and_spin false, got true; "
                "an element has one reference energy, and its ions and spin states have others"
            )
        return self
