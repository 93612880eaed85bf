"""The inputs and heads of arXiv 2506.21788 as published, to compare accuracies with.

Each atom starts as four scalars, its atomic number and its coordinates: predictions change when a
structure is shifted or turned. Layers are those of E(n)-equivariant graph networks (arXiv
2102.09844, eqs. 3 to 6) with ReLU; coordinates move along normalised differences. Energies come
from an MLP on the mean over atoms, forces from an MLP with three outputs per atom, and nothing is
scaled to the targets. This is here to be measured and is no part of the library.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mtlpar.core.hashing import derive_seed
from mtlpar.graph.batch import GraphBatch
from mtlpar.model.multitask import MultiTaskModel, Prediction, Segment
from mtlpar.model.settings import HeadSettings, ModelSettings

_ATOM_INPUTS = 4


class PaperLayer(nn.Module):
    """One round of messages."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.message = _mlp(2 * inputs + 1, width, 2)
        self.move = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.update = nn.Sequential(nn.Linear(inputs + width, width), nn.ReLU())
        self.out = nn.Linear(width, width)

    def forward(
        self, scalars: Tensor, positions: Tensor, edge: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Update features (A, F) and positions (A, 3)."""
        sender, receiver, shift = edge
        difference = positions[sender] + shift - positions[receiver]
        square = (difference**2).sum(dim=1, keepdim=True)
        message = self.message(torch.cat([scalars[receiver], scalars[sender], square], dim=1))
        pushes = difference / (square.sqrt() + 1) * torch.tanh(self.move(message))
        received = _sum(message, receiver, len(scalars))
        count = _sum(torch.ones_like(square), receiver, len(scalars)).clamp(min=1)
        moved = positions + _sum(pushes, receiver, len(scalars)) / count
        return self.out(self.update(torch.cat([scalars, received], dim=1))), moved


class PaperEncoder(nn.Module):
    """Layers one after the other, without residuals."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        inputs = [_ATOM_INPUTS] + [width] * (layers - 1)
        self.layers = nn.ModuleList(PaperLayer(count, width) for count in inputs)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Features of the atoms, (A, F)."""
        dtype = next(self.parameters()).dtype
        positions = batch.pos.to(dtype)
        scalars = torch.cat([batch.z[:, None].to(dtype), positions], dim=1)
        sender, receiver = batch.edge_index
        for layer in self.layers:
            scalars, positions = layer(
                scalars, positions, (sender, receiver, batch.edge_shift.to(dtype))
            )
        return scalars


class PaperBranch(nn.Module):
    """Energy per atom from the mean over atoms, forces as three numbers per atom."""

    def __init__(self, width: int, head: HeadSettings) -> None:
        super().__init__()
        self.energy = nn.Sequential(*_mlp(width, head.width, head.layers), nn.Linear(head.width, 1))
        self.force = nn.Sequential(*_mlp(width, head.width, 3), nn.Linear(head.width, 3))


class PaperModel(MultiTaskModel):
    """Stands in for `MultiTaskModel` in a training."""

    def __init__(self, settings: ModelSettings, branches: Iterable[str], *, seed: int) -> None:
        """See `MultiTaskModel`; of the encoder's settings width and layers count."""
        names = tuple(branches)
        super().__init__(settings, (), seed=seed)
        width = settings.encoder.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "paper"))
            self.encoder = PaperEncoder(width, settings.encoder.layers)  # type: ignore[assignment]
            self.heads = nn.ModuleDict({name: PaperBranch(width, settings.head) for name in names})

    def forward(self, batch: GraphBatch, segments: Sequence[Segment]) -> Prediction:
        """See `MultiTaskModel.forward`."""
        scalars = self.encoder(batch)
        pooled = scalars.new_zeros(len(batch.num_atoms), scalars.shape[1])
        pooled = pooled.index_add(0, batch.batch, scalars) / batch.num_atoms[:, None]
        energies, forces = [], []
        for segment in segments:
            first, last = segment.atom_bounds(batch)
            branch = self.heads[segment.branch]
            energies.append(branch.energy(pooled[segment.start : segment.stop]).squeeze(1))
            forces.append(branch.force(scalars[first:last]))
        return Prediction(torch.cat(energies), torch.cat(forces))


def _mlp(inputs: int, width: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for index in range(layers):
        parts += [nn.Linear(inputs if index == 0 else width, width), nn.ReLU()]
    return nn.Sequential(*parts)


def _sum(values: Tensor, receiver: Tensor, atoms: int) -> Tensor:
    return values.new_zeros(atoms, values.shape[1]).index_add(0, receiver, values)
