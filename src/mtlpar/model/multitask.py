"""The whole network: encoder plus the branches that this process holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from mtlpar.core.hashing import derive_seed
from mtlpar.model.encoder import AtomFeatures, Encoder
from mtlpar.model.heads import Branch
from mtlpar.model.settings import ModelSettings


class Segment(NamedTuple):
    """Consecutive structures of a batch that go through one branch.

    Attributes:
        branch: Name of the branch.
        start: First structure.
        stop: Structure after the last.
    """

    branch: str
    start: int
    stop: int


class Prediction(NamedTuple):
    """What the model says about a batch.

    Attributes:
        energy_per_atom: Energy per atom without references in eV/atom, (S,).
        forces: Forces in eV/Å, (A, 3).
    """

    energy_per_atom: Tensor
    forces: Tensor


class TargetScale(NamedTuple):
    """Size of the training targets of a branch.

    Attributes:
        energy_ev_per_atom: Root mean square of the energy per atom without references.
        force_ev_per_angstrom: Root mean square of the force components.
    """

    energy_ev_per_atom: float
    force_ev_per_angstrom: float


class MultiTaskModel(nn.Module):
    """A shared encoder and a `Branch` by name.

    Weights are drawn from seeds of their own for the encoder and each branch, so a process that
    holds only some branches starts from the same numbers as one that holds all of them.
    """

    def __init__(self, settings: ModelSettings, branches: Iterable[str], *, seed: int) -> None:
        """Build encoder and branches.

        Args:
            settings: Architecture.
            branches: Names of the branches to hold.
            seed: The run's seed.
        """
        super().__init__()
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "encoder"))
            self.encoder = Encoder(settings.encoder, cutoff_angstrom=settings.graph.cutoff_angstrom)
            self.heads = nn.ModuleDict()
            for name in branches:
                torch.manual_seed(derive_seed(seed, "branch", name))
                self.heads[name] = Branch(settings.encoder, settings.head)

    def forward(self, batch: Batch, segments: Sequence[Segment]) -> Prediction:
        """Predict a batch whose structures are grouped by branch.

        Args:
            batch: A collated batch.
            segments: Pieces of the batch in order, without gaps.

        Raises:
            ValueError: If the segments do not cover the batch, or name a branch not held here.
        """
        self._check_segments(batch, segments)
        atoms = self.encoder(batch)
        energies, forces = [], []
        for branch, start, stop in segments:
            first, last = int(batch.ptr[start]), int(batch.ptr[stop])
            part = AtomFeatures(atoms.scalars[first:last], atoms.vectors[first:last])
            energy, force = self.heads[branch](part)
            energies.append(energy)
            forces.append(force)
        atom_energy = torch.cat(energies)
        num_structures = len(batch.num_atoms)
        total = atom_energy.new_zeros(num_structures).index_add(0, batch.batch, atom_energy)
        return Prediction(total / batch.num_atoms, torch.cat(forces))

    def set_scales(self, scales: Mapping[str, TargetScale]) -> None:
        """Tell the branches held here how large their targets are."""
        for name, branch in self.heads.items():
            assert isinstance(branch, Branch)
            branch.energy_scale.fill_(scales[name].energy_ev_per_atom)
            branch.force_scale.fill_(scales[name].force_ev_per_angstrom)

    def _check_segments(self, batch: Batch, segments: Sequence[Segment]) -> None:
        bounds = [0, *(segment.stop for segment in segments)]
        starts = [segment.start for segment in segments]
        if starts != bounds[:-1] or bounds[-1] != len(batch.num_atoms):
            raise ValueError(
                f"segments {[tuple(s) for s in segments]} do not cover the "
                f"{len(batch.num_atoms)} structures of the batch in order"
            )
        for segment in segments:
            if segment.branch not in self.heads:
                raise ValueError(
                    f"no branch is called {segment.branch!r}; there are {', '.join(self.heads)}"
                )


def parameter_counts(model: MultiTaskModel) -> dict[str, int]:
    """Number of parameters of the encoder and of each branch held."""
    parts: dict[str, nn.Module] = {"encoder": model.encoder, **dict(model.heads.items())}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
