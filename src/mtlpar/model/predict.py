"""Predicts many structures in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mtlpar.core.fields import SIX_OF_MATRIX
from mtlpar.core.structures import StructureBatch
from mtlpar.graph.collate import collate
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.multitask import MultiTaskModel, Segment

FloatArray = npt.NDArray[np.float64]


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
        batch_atoms: Atoms predicted at a time; a larger structure goes alone.
        pool: Whether means of features over atoms are wanted too.
    """
    parameter = next(network.parameters())
    is_double = torch.float64 in (parameter.dtype, torch.from_numpy(structures.positions).dtype)
    geometry = torch.float64 if is_double else torch.float32
    for start, stop in bounded_slices(structures.num_atoms, batch_atoms):
        part = structures.slice(start, stop)
        with plain_mode(parameter.device):
            batch = collate(part, graph, dtype=geometry, device=parameter.device)
            segments = [Segment(branch, 0, len(part), (0, part.total_atoms))]
            prediction = network(batch, segments, pool=pool)
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
