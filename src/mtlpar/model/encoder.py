"""What every encoder is: atoms and edge vectors in, invariant and equivariant atom features out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mtlpar.core.fields import MAX_ATOMIC_NUMBER
from mtlpar.graph.batch import GraphBatch
from mtlpar.model.geometry import Edge, RadialBasis, describe_edges
from mtlpar.model.settings import EncoderSettings

MAX_CHARGE = 10
MAX_SPIN = 16


class AtomFeatures(NamedTuple):
    """What an encoder says about each atom.

    Attributes:
        scalars: Invariant features, (A, F).
        vectors: Equivariant vectors, (A, V, 3).
    """

    scalars: Tensor
    vectors: Tensor

    def slice(self, first: int, last: int) -> AtomFeatures:
        """Features of consecutive atoms."""
        return AtomFeatures(self.scalars[first:last], self.vectors[first:last])


class Encoder(nn.Module, ABC):
    """Base of the encoders.

    An encoder sees species, optionally charge and spin, and edge vectors; never positions. So
    translations and the choice of periodic images cannot matter, and what is differentiated by the
    edge vectors is differentiated by everything.

    Attributes:
        settings: Settings of its kind.
        num_vectors: V, equivariant vectors per atom that the encoder returns.
        layers: The rounds of messages; most of the work, and worth compiling one by one.
        edges_at_once: Edges that are computed together on a CPU; what more of them cost is linear.
        replay: What training calls for `encode`, if something does the same faster.
    """

    settings: EncoderSettings
    num_vectors: int
    layers: nn.ModuleList
    edges_at_once: int = 2048
    replay: Callable[[Tensor, Tensor, Tensor, Tensor], AtomFeatures] | None = None

    def __init__(self, settings: EncoderSettings, *, cutoff_angstrom: float) -> None:
        super().__init__()
        self.settings = settings
        self.species = nn.Embedding(MAX_ATOMIC_NUMBER + 1, settings.width)
        self.state = StateEmbedding(settings.width) if settings.charge_and_spin else None
        self.basis = RadialBasis(settings.radial_basis, cutoff_angstrom)

    def forward(self, batch: GraphBatch, vector: Tensor) -> AtomFeatures:
        """Encode a batch.

        Args:
            batch: Atoms and edges.
            vector: (E, 3) edge vectors in Å from receiver to sender.
        """
        scalars = self.embed(batch.z, batch.charge, batch.spin, batch.batch)
        encode = self.replay if self.replay and torch.is_grad_enabled() else self.encode
        return encode(scalars, batch.z, batch.edge_index, vector)

    def embed(self, z: Tensor, charge: Tensor, spin: Tensor, structure: Tensor) -> Tensor:
        """What atoms are before they see each other, (A, F).

        Args:
            z: (A,) atomic numbers.
            charge: (S,) total charges in e.
            spin: (S,) multiplicities.
            structure: (A,) the structure of each atom.
        """
        scalars: Tensor = self.species(z)
        if self.state is not None:
            scalars = scalars + self.state(charge, spin)[structure]
        return scalars

    def encode(
        self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> AtomFeatures:
        """Encode atoms by what they are and where their neighbours lie.

        Args:
            scalars: (A, F) what the atoms are.
            z: (A,) atomic numbers.
            edge_index: (2, E) senders and receivers, sorted by receiver.
            vector: (E, 3) edge vectors in Å from receiver to sender.
        """
        return self.interact(scalars, describe_edges(z, edge_index, vector, self.basis))

    def slow_because(self, device: torch.device) -> str | None:
        """What would make it faster on a device; None if it is as fast as it can be there."""
        del device
        return None

    @abstractmethod
    def interact(self, scalars: Tensor, edge: Edge) -> AtomFeatures:
        """Let atoms exchange messages.

        Args:
            scalars: (A, F) what the atoms are.
            edge: Geometry of the edges.
        """


class StateEmbedding(nn.Module):
    """Total charge and spin multiplicity of a structure as features; spin 0 means not stated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.charge = nn.Embedding(2 * MAX_CHARGE + 1, width)
        self.spin = nn.Embedding(MAX_SPIN + 1, width)

    def forward(self, charge: Tensor, spin: Tensor) -> Tensor:
        """Embed charges in e (S,) and multiplicities (S,) as (S, F).

        Raises:
            ValueError: If one is outside the table. On a GPU the look-up itself stops the run.
        """
        if charge.device.type == "cpu":
            _check_range("charge", charge, -MAX_CHARGE, MAX_CHARGE)
            _check_range("spin multiplicity", spin, 0, MAX_SPIN)
        embedded: Tensor = self.charge(charge + MAX_CHARGE) + self.spin(spin)
        return embedded


def _check_range(what: str, values: Tensor, low: int, high: int) -> None:
    wrong = values[(values < low) | (values > high)]
    if len(wrong):
        raise ValueError(
            f"{what} {sorted(set(wrong.tolist()))} is outside {low} to {high}, which is what the "
            "encoder has embeddings for"
        )
