"""Predicts many structures in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from mtlpar.core.structures import StructureBatch
from mtlpar.graph.collate import collate
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.multitask import MultiTaskModel, Segment

FloatArray = npt.NDArray[np.float64]


def predict(
    network: MultiTaskModel,
    structures: StructureBatch,
    *,
    branch: str,
    graph: GraphSettings,
    batch_atoms: int,
) -> Iterator[tuple[slice, FloatArray, FloatArray]]:
    """Predict with one branch, a bounded number of atoms at a time.

    Args:
        network: The network; its parameters say on which device and in which precision.
        structures: S structures.
        branch: Name of the branch.
        graph: Neighbour graph.
        batch_atoms: Atoms predicted at a time; a larger structure goes alone.

    Yields:
        Which structures, their energies per atom without references in eV/atom (S',) and their
        forces in eV/Å (A', 3).
    """
    parameter = next(network.parameters())
    for start, stop in bounded_slices(structures.num_atoms, batch_atoms):
        part = structures.slice(start, stop)
        batch = collate(part, graph, dtype=parameter.dtype).to(parameter.device)
        with torch.no_grad():
            energy, forces = network(batch, [Segment(branch, 0, len(part))])
        yield (
            slice(start, stop),
            energy.double().cpu().numpy(),
            forces.double().cpu().numpy(),
        )


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
