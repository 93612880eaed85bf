"""The paper's encoder: an EGNN with several equivariant vectors per atom.

Messages follow E(n)-equivariant graph networks (Satorras et al. 2021, arXiv 2102.09844):

    m_ij = phi_e(h_i, h_j, d_ij),   x_i <- x_i + sum_j (x_j - x_i) phi_x(m_ij),
    h_i  <- phi_h(h_i, sum_j m_ij)

with five changes. (1) Coordinates are not moved. The accumulated displacement is kept as C
vectors per atom, V_ic, and phi_e sees how they change the distance to first order,
V_jc . u_ij and V_ic . u_ij with u_ij the unit vector to the neighbour: this is what updated
distances tell, for several displacements at once, and neighbours never leave the cutoff. (2) Every
message is multiplied by a filter of the distance, as in SchNet and PaiNN, that goes to zero at the
cutoff with two derivatives. (3) Messages also carry the sender's vectors, phi_c(m_ij) V_jc.
(4) Species enter through an embedding and raw coordinates never do, so scalars are invariant and
vectors rotate with the structure. (5) phi_h also sees inner products of mixed vectors,
<(U V_i)_c, (W V_i)_c>, which depend on angles between neighbours; PaiNN has the like.
`docs/accuracy.md` has what each of them brings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtlpar.model.egnn.edges import CPU_BLOCK_EDGES, PreparedEdges
from mtlpar.model.egnn.messages import MessageWeights, exchange, has_kernels, prepare
from mtlpar.model.encoder import AtomFeatures, Encoder
from mtlpar.model.geometry import Edge
from mtlpar.model.linear import Linear
from mtlpar.model.settings import EgnnSettings


class EgnnLayer(nn.Module):
    """One round of messages; see the module's formula."""

    def __init__(self, settings: EgnnSettings, *, is_first: bool) -> None:
        super().__init__()
        width, channels = settings.width, settings.vector_channels
        self.recompute = settings.activation_checkpointing
        # Before the first layer all vectors are zero and have nothing to say.
        self.vectors_in = 0 if is_first else channels
        # The first layer of phi_e acts on [h_i, h_j, d_ij, V.u]: it is split into products per
        # node, done once per atom, and small products per edge.
        self.receiver_in = Linear(width, width)
        self.sender_in = Linear(width, width, bias=False)
        features = settings.radial_basis + 2 * self.vectors_in
        self.features_in = nn.Linear(features, width, bias=False)
        self.message = nn.Linear(width, width)
        self.filter = nn.Linear(settings.radial_basis, width, bias=False)
        self.vector_out = nn.Linear(width, channels + self.vectors_in, bias=False)
        self.inner_products = InnerProducts(channels)
        self.update = nn.Sequential(
            Linear(2 * width + channels, width), nn.SiLU(), Linear(width, width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, scalars: Tensor, vectors: Tensor, edges: PreparedEdges
    ) -> tuple[Tensor, Tensor]:
        """Exchange messages once.

        Args:
            scalars: (A, F) invariant features.
            vectors: (A, C, 3) accumulated equivariant vectors.
            edges: The E edges.

        Returns:
            Updated scalars (A, F) and the vectors this layer adds (A, C, 3).
        """
        h = self.norm(scalars)
        weights = MessageWeights(
            self.features_in.weight,
            self.message.weight,
            self.message.bias,
            self.filter.weight,
            self.vector_out.weight,
        )
        received, added = exchange(
            self.receiver_in(h),
            self.sender_in(h),
            vectors[:, : self.vectors_in],
            weights,
            edges,
            recompute=self.recompute,
        )
        inner = self.inner_products(vectors + added)
        scalars = scalars + self.update(torch.cat([h, received, inner], dim=1))
        return scalars, added


class InnerProducts(nn.Module):
    """As many invariants as there are vectors: products of two mixtures of them, U V and W V."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, 2 * channels, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (A, C, 3) to (A, C)."""
        # Rounded vectors would not have the same products in every orientation.
        with torch.autocast(vectors.device.type, enabled=False):
            left, right = self.mix(vectors.transpose(1, 2)).chunk(2, dim=2)
            return (left * right).sum(dim=1)  # type: ignore[no-any-return]


class EgnnEncoder(Encoder):
    """EGNN; returns the vectors of every layer, V = L C."""

    settings: EgnnSettings
    edges_at_once = CPU_BLOCK_EDGES

    def __init__(self, settings: EgnnSettings, *, cutoff_angstrom: float) -> None:
        super().__init__(settings, cutoff_angstrom=cutoff_angstrom)
        self.num_vectors = settings.layers * settings.vector_channels
        self.layers = nn.ModuleList(
            EgnnLayer(settings, is_first=index == 0) for index in range(settings.layers)
        )
        self.norm = nn.LayerNorm(settings.width)

    def slow_because(self, device: torch.device) -> str | None:
        """See `Encoder.slow_because`."""
        if device.type != "cuda" or has_kernels(device):
            return None
        return "Triton is not installed: messages take longer than they need to"

    def interact(self, scalars: Tensor, edge: Edge) -> AtomFeatures:
        """See `Encoder.interact`."""
        sizes = self.settings.width, self.settings.vector_channels
        edges = prepare(edge, scalars.shape[0], sizes)
        scalars = edges.to_rows(scalars)
        # One axis after the other, as products with weights want them.
        vectors = scalars.new_zeros(scalars.shape[0], 3, self.settings.vector_channels).mT
        by_layer = []
        for layer in self.layers:
            scalars, added = layer(scalars, vectors, edges)
            vectors = vectors + added
            by_layer.append(added)
        scalars, vectors = self.norm(scalars), torch.cat(by_layer, dim=1)
        return AtomFeatures(edges.of_atoms(scalars), edges.of_atoms(vectors))
