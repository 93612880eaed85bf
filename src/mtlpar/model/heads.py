"""One branch: an energy head and a force head on the encoder's atom features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtlpar.model.encoder import AtomFeatures
from mtlpar.model.settings import EncoderSettings, HeadSettings


class Branch(nn.Module):
    """Energy and forces at one level of theory.

    Each head is an MLP on the atoms' scalars. The energy head gives each atom's energy; the force
    head gives coefficients for the atom's equivariant vectors, so forces rotate with the structure
    whatever the weights are. Both are scaled by the size of the training targets, which are
    buffers and travel with the branch.
    """

    energy_scale: Tensor
    force_scale: Tensor

    def __init__(self, encoder: EncoderSettings, head: HeadSettings) -> None:
        super().__init__()
        self.energy = _mlp(encoder.width, head, 1)
        self.force = _mlp(encoder.width, head, encoder.layers * encoder.vector_channels)
        self.register_buffer("energy_scale", torch.ones(()))
        self.register_buffer("force_scale", torch.ones(()))

    def forward(self, atoms: AtomFeatures) -> tuple[Tensor, Tensor]:
        """Predict for each atom.

        Returns:
            Energies without references in eV, (A,), and forces in eV/Å, (A, 3).
        """
        energy = self.energy(atoms.scalars).squeeze(1) * self.energy_scale
        coefficients = self.force(atoms.scalars)
        forces = torch.einsum("ac,acx->ax", coefficients, atoms.vectors) * self.force_scale
        return energy, forces


def _mlp(inputs: int, head: HeadSettings, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(head.layers):
        layers += [nn.Linear(inputs, head.width), nn.SiLU()]
        inputs = head.width
    layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)
