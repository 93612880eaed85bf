"""PaiNN: scalars and as many equivariant vectors per atom, updated by turns.

Schütt, Unke and Gastegger 2021 (arXiv 2102.03150), eqs. 7 to 10. With s_i scalars, v_i vectors,
u_ij the unit vector from i to j and W(d_ij) a filter that vanishes smoothly at the cutoff,

    message:  (a, b, c)_ij = phi(s_j) * W(d_ij),
              s_i += sum_j a_ij,   v_i += sum_j b_ij u_ij + c_ij v_j
    update:   (a, b, c)_i = psi(s_i, |V v_i|),
              s_i += a_i + b_i <U v_i, V v_i>,   v_i += c_i U v_i

phi acts per atom before it is sent, and every sum over neighbours has a fixed divisor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtlpar.model.encoder import AtomFeatures, Encoder
from mtlpar.model.geometry import Edge, sum_to_receivers
from mtlpar.model.settings import PainnSettings

# Keeps the length of a vanishing vector twice differentiable.
_LENGTH_EPSILON = 1e-6


class PainnLayer(nn.Module):
    """One message and one update; see the module's formula."""

    def __init__(self, settings: PainnSettings) -> None:
        super().__init__()
        width = settings.width
        self.norm = nn.LayerNorm(width)
        self.sender = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.filter = nn.Linear(settings.radial_basis, 3 * width)
        self.mix = nn.Linear(width, 2 * width, bias=False)
        self.update = nn.Sequential(
            nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 3 * width)
        )

    def forward(self, scalars: Tensor, vectors: Tensor, edge: Edge) -> tuple[Tensor, Tensor]:
        """Exchange messages once.

        Args:
            scalars: (A, F) invariant features.
            vectors: (A, 3, F) equivariant vectors.
            edge: Geometry of the E edges.

        Returns:
            Updated scalars and vectors.
        """
        scalars, vectors = self._message(scalars, vectors, edge)
        left, right = self.mix(vectors).chunk(2, dim=2)
        length = ((right**2).sum(dim=1) + _LENGTH_EPSILON).sqrt()
        keep, inner, scale = self.update(torch.cat([scalars, length], dim=1)).chunk(3, dim=1)
        scalars = scalars + keep + inner * (left * right).sum(dim=1)
        return scalars, vectors + scale[:, None, :] * left

    def _message(self, scalars: Tensor, vectors: Tensor, edge: Edge) -> tuple[Tensor, Tensor]:
        # The bias of the filter goes to zero at the cutoff too.
        weight = self.filter(edge.radial) * edge.envelope
        sent = self.sender(self.norm(scalars))[edge.sender] * weight
        scalar, along, through = sent.chunk(3, dim=1)
        pushes = along[:, None, :] * edge.direction[:, :, None]
        pushes = pushes + through[:, None, :] * vectors[edge.sender]
        atoms = scalars.shape[0]
        return (
            scalars + sum_to_receivers(scalar, edge.receiver, atoms),
            vectors + sum_to_receivers(pushes, edge.receiver, atoms),
        )


class PainnEncoder(Encoder):
    """PaiNN; returns the vectors after the last layer, V = F."""

    settings: PainnSettings

    def __init__(self, settings: PainnSettings, *, cutoff_angstrom: float) -> None:
        super().__init__(settings, cutoff_angstrom=cutoff_angstrom)
        self.num_vectors = settings.width
        self.layers = nn.ModuleList(PainnLayer(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.width)

    def interact(self, scalars: Tensor, edge: Edge) -> AtomFeatures:
        """See `Encoder.interact`."""
        vectors = scalars.new_zeros(scalars.shape[0], 3, self.settings.width)
        for layer in self.layers:
            if self.settings.activation_checkpointing:
                scalars, vectors = checkpoint(layer, scalars, vectors, edge, use_reentrant=False)
            else:
                scalars, vectors = layer(scalars, vectors, edge)
        return AtomFeatures(self.norm(scalars), vectors.transpose(1, 2))
