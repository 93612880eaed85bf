"""Predicts many structures in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mtlpar.core.fields import SIX_OF_MATRIX
from mtlpar.core.structures import StructureBatch
from mtlpar.graph.batch import GraphBatch
from mtlpar.graph.collate import collate
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.geometry import edge_vectors, forces_and_stress
from mtlpar.model.heads import Branch
from mtlpar.model.inference import inference_of
from mtlpar.model.multitask import MultiTaskModel, Prediction, sum_atoms

FloatArray = npt.NDArray[np.float64]

# More at once take longer on a CPU: what their edges leave for forces would be computed twice.
_MOST_ATOMS_ON_CPU: Final = 2048


class PredictedBatch(NamedTuple):
    """Predictions of consecutive structures.

    Attributes:
        structures: Which ones, S' of them with A' atoms.
        energy_per_atom: Energies per atom without references in eV/atom, (S',).
        forces: Forces in eV/Å, (A', 3).
        stress: Stresses in eV/Å^3, (S', 3, 3); None if the network predicts none.
        atom_energies: What each atom adds to the energy without references in eV, (A',).
        descriptors: Means of the encoder's invariant features, (S', F), if they were asked for.
        last_features: What energies per atom are linear in, (S', K), if they were asked for; see
            `mtlpar.model.multitask.Pooled`.
    """

    structures: slice
    energy_per_atom: FloatArray
    forces: FloatArray
    stress: FloatArray | None
    atom_energies: FloatArray
    descriptors: FloatArray | None = None
    last_features: FloatArray | None = None

    @property
    def six_stresses(self) -> FloatArray | None:
        """Stresses in the order xx yy zz yz xz xy, (S', 6)."""
        return None if self.stress is None else self.stress[:, *SIX_OF_MATRIX]


@contextmanager
def plain_mode(device: torch.device) -> Iterator[None]:
    """Whatever modes the caller has set, compute in those that predictions are made in.

    Forces that are gradients cannot be had of tensors made in inference mode, and autocast would
    round what the weights keep.
    """
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def predict_batches(
    network: MultiTaskModel,
    structures: StructureBatch,
    *,
    branch: str,
    graph: GraphSettings,
    batch_atoms: int,
    pool: bool = False,
) -> Iterator[PredictedBatch]:
    """Predict with one branch, a bounded number of atoms at a time.

    Edge vectors are made in the precision of the structures' positions, then rounded to the
    network's: far from the origin, positions in float32 would be coarser than the network sees.

    Args:
        network: The network; its parameters say on which device and in which precision.
        structures: S structures.
        branch: Name of the branch.
        graph: Neighbour graph.
        batch_atoms: Most atoms predicted at a time; a larger structure goes alone.
        pool: Whether means of features over atoms are wanted too.
    """
    parameter = next(network.parameters())
    is_double = torch.float64 in (parameter.dtype, torch.from_numpy(structures.positions).dtype)
    geometry = torch.float64 if is_double else torch.float32
    with plain_mode(parameter.device):
        answers = BranchAnswers(network, branch)
    if parameter.device.type == "cpu":
        batch_atoms = min(batch_atoms, _MOST_ATOMS_ON_CPU)
    for start, stop in bounded_slices(structures.num_atoms, batch_atoms):
        part = structures.slice(start, stop)
        with plain_mode(parameter.device):
            batch = collate(part, graph, dtype=geometry, device=parameter.device)
            prediction = _predict(answers, network, batch, pool=pool)
        assert prediction.atom_energies is not None
        pooled = prediction.pooled
        yield PredictedBatch(
            slice(start, stop),
            _to_numpy(prediction.energy_per_atom),
            _to_numpy(prediction.forces),
            None if prediction.stress is None else _to_numpy(prediction.stress),
            _to_numpy(prediction.atom_energies),
            None if pooled is None else _to_numpy(pooled.descriptors),
            None if pooled is None else _to_numpy(pooled.last),
        )


class AtomAnswers(NamedTuple):
    """What a branch says of A atoms with E edges.

    Attributes:
        energies: What each adds to the energy without references in eV, (A,).
        gradient: Derivatives of the energy by the edge vectors in eV/Å, (3, E); None where forces
            are predicted.
        forces: Forces in eV/Å, (A, 3), where they are predicted.
        scalars: Invariant features, (A, F).
        last: What the energies are linear in, (A, H), less that of isolated atoms where these are
            the zero.
    """

    energies: torch.Tensor
    gradient: torch.Tensor | None
    forces: torch.Tensor | None
    scalars: torch.Tensor
    last: torch.Tensor


class BranchAnswers:
    """What one branch of a network says of atoms, by the fastest way and without gradients.

    For batches and for one structure after another alike. It has the weights of the moment when it
    is made, in `plain_mode`.
    """

    def __init__(self, network: MultiTaskModel, name: str) -> None:
        branch = network.heads[name]
        assert isinstance(branch, Branch)
        self._branch, self._is_conservative = branch, network.is_conservative
        self._is_mean = network.settings.head.energy == "mean"
        self._inference = inference_of(network.encoder, branch)
        self._isolated = network.isolated(name)

    def of(
        self,
        scalars: torch.Tensor,
        z: torch.Tensor,
        edge_index: torch.Tensor,
        vector: torch.Tensor,
        count: torch.Tensor,
    ) -> AtomAnswers:
        """What `MultiTaskModel.forward` says of the atoms.

        Args:
            scalars: What the encoder's embedding says of them, (A, F).
            z: Atomic numbers, (A,).
            edge_index: Sender and receiver of each edge, (2, E).
            vector: Edge vectors in Å, (3, E).
            count: Atoms of the structure of each, (A,).
        """
        gradient, forces = None, None
        if self._is_conservative:
            energies, gradient, scalars, last = self._inference.energies_and_gradient(
                scalars, z, edge_index, vector
            )
            if self._is_mean:
                gradient = gradient / count[edge_index[1]]
        else:
            scalars, equivariant = self._inference.features(scalars, z, edge_index, vector)
            energies, forces = self._branch.decode(scalars, equivariant)
            last = self._branch.last_features(scalars)
        # Differences and parts of energies keep the digits that these have.
        if self._isolated is not None:
            energies = energies.double() - self._isolated.energies[z].double()
            last = last - self._isolated.last[z]
        if self._is_mean:
            energies = energies.double() / count
        return AtomAnswers(energies, gradient, forces, scalars, last)


def _predict(
    answers: BranchAnswers, network: MultiTaskModel, batch: GraphBatch, *, pool: bool
) -> Prediction:
    """What `MultiTaskModel.forward` says of a batch."""
    scalars = network.encoder.embed(batch.z, batch.charge, batch.spin, batch.batch)
    vectors = edge_vectors(batch).to(scalars.dtype)
    count = batch.num_atoms[batch.batch]
    found = answers.of(scalars, batch.z, batch.edge_index, vectors.T.contiguous(), count)
    forces, stress = found.forces, None
    if found.gradient is not None:
        forces, stress = forces_and_stress(batch, vectors, found.gradient.T)
    assert forces is not None
    return Prediction(
        sum_atoms(batch, found.energies) / batch.num_atoms,
        forces,
        stress,
        found.energies,
        network.pool_atoms(batch, found.scalars, found.last) if pool else None,
    )


def _to_numpy(value: torch.Tensor) -> FloatArray:
    return value.double().cpu().numpy()


def bounded_slices(num_atoms: npt.NDArray[np.int32], limit: int) -> Iterator[tuple[int, int]]:
    """Cut structures into consecutive pieces of at most ``limit`` atoms, at least one structure."""
    start, atoms = 0, 0
    for index, count in enumerate(num_atoms.tolist()):
        if index > start and atoms + count > limit:
            yield start, index
            start, atoms = index, 0
        atoms += count
    if start < len(num_atoms):
        yield start, len(num_atoms)
