"""The shared encoder: an EGNN with several equivariant vectors per atom.

Messages follow E(n)-equivariant graph networks (Satorras et al. 2021, arXiv 2102.09844):

    m_ij = phi_e(h_i, h_j, d_ij),   x_i <- x_i + sum_j (x_j - x_i) phi_x(m_ij),
    h_i  <- phi_h(h_i, sum_j m_ij)

with three changes. (1) Coordinates are not moved. The accumulated displacement is kept as C
vectors per atom, V_ic, and phi_e sees how they change the distance to first order,
V_jc . u_ij and V_ic . u_ij with u_ij the unit vector to the neighbour: this is what updated
distances tell, for several displacements at once, and neighbours never leave the cutoff. (2) Every
message is multiplied by an envelope that goes to zero at the cutoff with two derivatives.
(3) Species enter through an embedding and raw coordinates never do, so scalars are invariant and
vectors rotate with the structure.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from mtlpar.core.fields import MAX_ATOMIC_NUMBER
from mtlpar.model.settings import EncoderSettings

_TYPICAL_NEIGHBORS = 16.0


class AtomFeatures(NamedTuple):
    """What the encoder says about each atom.

    Attributes:
        scalars: Invariant features, (A, F).
        vectors: Equivariant vectors of every layer, (A, L * C, 3).
    """

    scalars: Tensor
    vectors: Tensor


class Edge(NamedTuple):
    """Geometry of the edges of a batch.

    Attributes:
        sender: (E,) atoms that send.
        receiver: (E,) atoms that receive.
        direction: (E, 3) unit vectors from receiver to sender.
        radial: (E, K) radial functions of the length, zero at the cutoff.
        envelope: (E, 1) smooth cutoff.
    """

    sender: Tensor
    receiver: Tensor
    direction: Tensor
    radial: Tensor
    envelope: Tensor


class RadialBasis(nn.Module):
    """Bessel functions sin(k pi d / r_c) / d times a polynomial envelope.

    Basis and envelope as in Gasteiger et al. 2020 (arXiv 2003.03123), eqs. 7 and 8 with p = 6.
    """

    frequencies: Tensor

    def __init__(self, size: int, cutoff_angstrom: float) -> None:
        super().__init__()
        self.cutoff = cutoff_angstrom
        frequencies = math.pi * torch.arange(1, size + 1, dtype=torch.float64)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Expand distances.

        Args:
            distance: (E, 1) lengths in Å.

        Returns:
            Radial functions (E, K) and the envelope (E, 1).
        """
        x = distance / self.cutoff
        envelope = torch.where(x < 1, 1 - 28 * x**6 + 48 * x**7 - 21 * x**8, torch.zeros_like(x))
        bessel = math.sqrt(2.0) * torch.sin(self.frequencies.to(x.dtype) * x) / x
        return bessel * envelope, envelope


class EncoderLayer(nn.Module):
    """One round of messages; see the module's formula."""

    def __init__(self, settings: EncoderSettings, *, is_first: bool) -> None:
        super().__init__()
        width, channels = settings.width, settings.vector_channels
        # The first layer of phi_e acts on [h_i, h_j, d_ij, V.u]: it is split into products per
        # node, done once per atom, and small products per edge.
        self.receiver_in = nn.Linear(width, width)
        self.sender_in = nn.Linear(width, width, bias=False)
        self.radial_in = nn.Linear(settings.radial_basis, width, bias=False)
        # Before the first layer all vectors are zero and have nothing to say.
        self.vector_in = None if is_first else nn.Linear(2 * channels, width, bias=False)
        self.message = nn.Linear(width, width)
        self.vector_out = nn.Linear(width, channels, bias=False)
        self.update = nn.Sequential(
            nn.Linear(2 * width + channels, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, scalars: Tensor, vectors: Tensor, edge: Edge) -> tuple[Tensor, Tensor]:
        """Exchange messages once.

        Args:
            scalars: (A, F) invariant features.
            vectors: (A, C, 3) accumulated equivariant vectors.
            edge: Geometry of the E edges.

        Returns:
            Updated scalars (A, F) and the vectors this layer adds (A, C, 3).
        """
        h = self.norm(scalars)
        hidden = (
            self.receiver_in(h)[edge.receiver]
            + self.sender_in(h)[edge.sender]
            + self.radial_in(edge.radial)
        )
        if self.vector_in is not None:
            hidden = hidden + self.vector_in(_along_edges(vectors, edge))
        message = nn.functional.silu(self.message(nn.functional.silu(hidden))) * edge.envelope
        received = _sum_to_receivers(message, edge.receiver, len(scalars))
        pushes = self.vector_out(message)[:, :, None] * edge.direction[:, None, :]
        added = _sum_to_receivers(pushes, edge.receiver, len(scalars))
        lengths = ((vectors + added) ** 2).sum(dim=2)
        scalars = scalars + self.update(torch.cat([h, received, lengths], dim=1))
        return scalars, added


class Encoder(nn.Module):
    """Shared part of the model: structures in, invariant and equivariant atom features out."""

    def __init__(self, settings: EncoderSettings, *, cutoff_angstrom: float) -> None:
        super().__init__()
        self.settings = settings
        self.species = nn.Embedding(MAX_ATOMIC_NUMBER + 1, settings.width)
        self.basis = RadialBasis(settings.radial_basis, cutoff_angstrom)
        self.layers = nn.ModuleList(
            EncoderLayer(settings, is_first=index == 0) for index in range(settings.layers)
        )
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, batch: Batch) -> AtomFeatures:
        """Encode a collated batch; see `mtlpar.graph.collate` for its tensors."""
        edge = self._edges(batch)
        scalars = self.species(batch.z)
        vectors = scalars.new_zeros(len(scalars), self.settings.vector_channels, 3)
        by_layer = []
        for layer in self.layers:
            scalars, added = layer(scalars, vectors, edge)
            vectors = vectors + added
            by_layer.append(added)
        return AtomFeatures(self.norm(scalars), torch.cat(by_layer, dim=1))

    def _edges(self, batch: Batch) -> Edge:
        sender, receiver = batch.edge_index
        vector = batch.pos[sender] + batch.edge_shift - batch.pos[receiver]
        distance = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        radial, envelope = self.basis(distance)
        return Edge(sender, receiver, vector / distance, radial, envelope)


def _along_edges(vectors: Tensor, edge: Edge) -> Tensor:
    """Components of both atoms' vectors along each edge, (E, 2 C)."""
    ends = (vectors[edge.receiver], vectors[edge.sender])
    return torch.cat([torch.einsum("ecx,ex->ec", end, edge.direction) for end in ends], dim=1)


def _sum_to_receivers(values: Tensor, receiver: Tensor, num_atoms: int) -> Tensor:
    # A fixed divisor, not each atom's own count: the sum must stay smooth and extensive.
    total = values.new_zeros(num_atoms, *values.shape[1:]).index_add(0, receiver, values)
    return total / math.sqrt(_TYPICAL_NEIGHBORS)
