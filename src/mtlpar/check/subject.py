"""The model under test, seen from outside: structures in, energies and forces out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from ase import Atoms

from mtlpar.core.ase_structures import structure_batch
from mtlpar.graph.collate import collate
from mtlpar.model.multitask import MultiTaskModel, Segment
from mtlpar.model.predict import plain_mode

FloatArray = npt.NDArray[np.float64]


class Observed(NamedTuple):
    """Predictions of several structures.

    Attributes:
        energy_per_atom: Energies per atom in eV/atom, (S,).
        forces: Forces in eV/Å, (A, 3).
        stress: Stresses in eV/Å^3, (S, 3, 3), NaN where undefined; None if there are none.
    """

    energy_per_atom: FloatArray
    forces: FloatArray
    stress: FloatArray | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the checks need to know about a model.

    Attributes:
        predict: Predicts structures in one batch.
        elements: Atomic numbers that the model knows; structures are made of them.
        cutoff_angstrom: Where neighbours must have faded out.
        is_conservative: Whether forces claim to be minus the gradient of the energy.
        is_extensive: Whether the total energy claims to be a sum over atoms.
        tolerance: Largest deviation allowed, relative to the larger of the values compared and one.
        is_double: Whether arithmetic is fine enough for finite differences.
    """

    predict: Callable[[Sequence[Atoms]], Observed]
    elements: tuple[int, ...]
    cutoff_angstrom: float
    is_conservative: bool
    is_extensive: bool
    tolerance: float
    is_double: bool

    def energy(self, atoms: Atoms) -> float:
        """Energy of one structure in eV, without references."""
        return float(self.predict([atoms]).energy_per_atom[0] * len(atoms))


TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}


def subject_of(
    network: MultiTaskModel, branch: str, *, elements: Sequence[int], dtype: torch.dtype
) -> Subject:
    """One branch of a network in a precision, without truncation of neighbours.

    Truncation keeps what it keeps by distance, so it breaks ties and smoothness by its nature;
    `mtlpar check` says so, and tests the function that is truncated.
    """
    network = copy.deepcopy(network).to(dtype=dtype).eval()
    graph = network.settings.graph.model_copy(update={"max_neighbors": None})

    def predict(structures: Sequence[Atoms]) -> Observed:
        # By the network's own operations: those of `predict_batches` are held to them by tests.
        device = next(network.parameters()).device
        batch = collate(structure_batch(structures), graph, dtype=torch.float64, device=device)
        with plain_mode(device):
            found = network(batch, [Segment(branch, 0, batch.num_graphs)])
        return Observed(
            found.energy_per_atom.double().cpu().numpy(),
            found.forces.double().cpu().numpy(),
            None if found.stress is None else found.stress.double().cpu().numpy(),
        )

    return Subject(
        predict=predict,
        elements=tuple(elements),
        cutoff_angstrom=graph.cutoff_angstrom,
        is_conservative=network.is_conservative,
        is_extensive=network.settings.head.energy == "sum",
        tolerance=TOLERANCES[dtype],
        is_double=dtype == torch.float64,
    )


def deviation(got: Observed, expected: Observed) -> float:
    """Largest difference of energies, forces and stresses, each relative to its size or one."""
    pairs = [(got.energy_per_atom, expected.energy_per_atom), (got.forces, expected.forces)]
    if got.stress is not None and expected.stress is not None:
        # Molecules have none on either side; anywhere else NaN is a deviation.
        defined = ~(np.isnan(got.stress) & np.isnan(expected.stress))
        pairs.append((got.stress[defined], expected.stress[defined]))
    return max(relative(*pair) for pair in pairs)


def relative(got: FloatArray, expected: FloatArray) -> float:
    """Largest difference over the larger of one and the largest value expected; NaN is infinite."""
    if not got.size:
        return 0.0
    difference = np.abs(got - expected).max() / max(1.0, np.abs(expected).max())
    return float(difference) if np.isfinite(difference) else float("inf")
