"""The objective, as a formula and as code.

With B_t the global batch of dataset t, N_t its structures and A_t its atoms,

    L = sum_t [ w_t,E lambda_E / N_t sum_{s in B_t} |e_s - e_s*|
                + w_t,F lambda_F / (3 A_t) sum_{i in B_t} |f_i - f_i*|_1 ]

L does not know how B_t is spread over ranks: each rank sums over its own samples and divides by the
*global* counts, and sums of gradients are then exact. A mean of per-rank means would be another
objective, one that changes with the number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtlpar.model.multitask import Prediction


class DatasetPiece(NamedTuple):
    """This rank's consecutive share of one dataset's global batch.

    Attributes:
        dataset: Name of the dataset.
        structures: First structure and structure after the last, within the local batch.
        atoms: First atom and atom after the last, within the local batch.
        global_structures: N_t, structures of the dataset in the global batch.
        global_atoms: A_t, atoms of the dataset in the global batch.
    """

    dataset: str
    structures: tuple[int, int]
    atoms: tuple[int, int]
    global_structures: int
    global_atoms: int


class Targets(NamedTuple):
    """Labels of a local batch.

    Attributes:
        energy_per_atom: Energy per atom without references in eV/atom, (S,).
        forces: Forces in eV/Å, (A, 3).
    """

    energy_per_atom: Tensor
    forces: Tensor


class Objective:
    """Local terms of L, and L itself from the terms summed over all ranks."""

    def __init__(self, weights: Mapping[str, tuple[float, float]]) -> None:
        """Fix the weights.

        Args:
            weights: w_tE lambda_E and w_tF lambda_F of all datasets of the model; their order is
                the order of the terms.
        """
        self.datasets = tuple(weights)
        self._row = {dataset: row for row, dataset in enumerate(self.datasets)}
        self.weights = torch.tensor(list(weights.values()), dtype=torch.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the terms: datasets by tasks (energy, forces)."""
        return len(self.datasets), 2

    def terms(
        self, prediction: Prediction, targets: Targets, pieces: Sequence[DatasetPiece]
    ) -> Tensor:
        """This rank's contributions to the mean absolute errors of the global batch.

        Returns:
            (T, 2): for each dataset the energy term in eV/atom and the force term in eV/Å,
            unweighted. Summed over all ranks they are the errors of the global batch.
        """
        energy_error = (prediction.energy_per_atom - targets.energy_per_atom).abs()
        force_error = (prediction.forces - targets.forces).abs()
        zero = energy_error.new_zeros(())
        rows = [[zero, zero] for _ in self._row]
        for piece in pieces:
            energy = energy_error[slice(*piece.structures)].sum() / piece.global_structures
            force = force_error[slice(*piece.atoms)].sum() / (3 * piece.global_atoms)
            rows[self._row[piece.dataset]] = [energy, force]
        return torch.stack([torch.stack(row) for row in rows])

    def total(self, terms: Tensor) -> Tensor:
        """L, or this rank's part of it, from (T, 2) terms."""
        return (self.weights.to(terms) * terms).sum()
