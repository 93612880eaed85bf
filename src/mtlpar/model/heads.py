"""One branch: the energy head and, where forces are predicted directly, the force head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mtlpar.model.encoder import AtomFeatures
from mtlpar.model.linear import Linear
from mtlpar.model.settings import HeadSettings


class Branch(nn.Module):
    """Energy and forces at one level of theory.

    Each head is an MLP on the atoms' scalars. The energy head gives each atom's energy; the force
    head gives coefficients for the atom's equivariant vectors, so forces rotate with the structure
    whatever the weights are. Both are scaled by the size of the training targets, which are
    buffers and travel with the branch. A branch with conservative forces has no force head.

    Attributes:
        replay: What training calls for `decode`, if something does the same faster.
    """

    energy_scale: Tensor
    force_scale: Tensor
    replay: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def __init__(self, width: int, num_vectors: int, head: HeadSettings) -> None:
        super().__init__()
        self.energy = Mlp(width, head, 1)
        self.force = Mlp(width, head, num_vectors) if head.forces == "equivariant" else None
        self.register_buffer("energy_scale", torch.ones(()))
        self.register_buffer("force_scale", torch.ones(()))

    def forward(self, atoms: AtomFeatures) -> tuple[Tensor, Tensor]:
        """Energies of atoms and forces on them by the two heads; see `decode`."""
        decode = self.replay if self.replay and torch.is_grad_enabled() else self.decode
        return decode(atoms.scalars, atoms.vectors)

    def decode(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Energies without references in eV, (A,), and forces in eV/Å, (A, 3).

        Args:
            scalars: (A, F) invariant features.
            vectors: (A, V, 3) equivariant vectors.
        """
        atoms = AtomFeatures(scalars, vectors)
        return self.atom_energies(atoms), self.direct_forces(atoms)

    def atom_energies(self, atoms: AtomFeatures) -> Tensor:
        """Energies without references in eV, (A,)."""
        energies: Tensor = self.energy(atoms.scalars).squeeze(1) * self.energy_scale
        return energies

    def last_features(self, scalars: Tensor) -> Tensor:
        """What the energies of atoms are linear in, (A, H), from their scalars (A, F)."""
        *hidden, _ = self.energy
        for layer in hidden:
            scalars = layer(scalars)
        return scalars

    def last_layer(self) -> Tensor:
        """Energies of atoms by `last_features` and a one: weights and bias in eV, (H + 1,)."""
        output = self.energy[-1]
        assert isinstance(output, nn.Linear)
        whole = torch.cat([output.weight.detach()[0], output.bias.detach()])
        return whole.double() * self.energy_scale.double()

    def direct_forces(self, atoms: AtomFeatures) -> Tensor:
        """Forces in eV/Å from the force head, (A, 3)."""
        assert self.force is not None
        coefficients = self.force(atoms.scalars)[:, :, None]
        # No matrix product, which would be rounded where products are in bf16.
        forces: Tensor = (coefficients * atoms.vectors).sum(dim=1) * self.force_scale
        return forces


class Mlp(nn.Sequential):
    """Hidden layers and a linear output, which is exact also where products are in bf16."""

    def __init__(self, inputs: int, head: HeadSettings, outputs: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(head.layers):
            layers += [Linear(inputs, head.width), nn.SiLU()]
            inputs = head.width
        super().__init__(*layers, nn.Linear(inputs, outputs))

    def forward(self, values: Tensor) -> Tensor:
        """Map (A, inputs) to (A, outputs) in the type of the weights."""
        *hidden, output = self
        assert isinstance(output, nn.Linear)
        for layer in hidden:
            values = layer(values)
        with torch.autocast(values.device.type, enabled=False):
            return output(values.to(output.weight.dtype))  # type: ignore[no-any-return]
