"""The objective, as a formula and as code.

With B_t the global batch of source t, and N_t, A_t and V_t the numbers of its energies, of its
atoms with forces and of its stresses,

    L = sum_t [ w_t,E lambda_E / N_t       sum_{s with energy} c_s,E rho_E(e_s - e_s*)
              + w_t,F lambda_F / (3 A_t)   sum_{i with forces} c_s,F sum_k rho_F(f_ik - f_ik*)
              + w_t,S lambda_S / (6 V_t)   sum_{s with stress} c_s,S sum_k rho_S(t_sk - t_sk*) ]

where c are the weights of single structures, 1 unless a source has its own, and rho is

    l1:     rho(x) = |x|                          (the paper's)
    l2:     rho(x) = x^2
    huber:  rho(x) = x^2 / (2 d) for |x| < d, else |x| - d / 2.

The six components of a stress are xx, yy, zz, yz, xz, xy. A label that a structure lacks adds to
neither sum nor count.

L does not know how B_t is spread over ranks: each rank sums over its own samples and divides by the
*global* counts, and sums of gradients are then exact. A mean of per-rank means would be another
objective, one that changes with the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtlpar.core.error_names import MAE_NAMES
from mtlpar.core.fields import LABELS, SIX_OF_MATRIX
from mtlpar.core.structures import StructureBatch
from mtlpar.model.multitask import Prediction
from mtlpar.train.settings import Loss, Losses


class LabelCounts(NamedTuple):
    """How many labels a global batch of one source has.

    Attributes:
        energies: N_t, structures with an energy.
        force_atoms: A_t, atoms with forces.
        stresses: V_t, structures with a stress.
    """

    energies: int
    force_atoms: int
    stresses: int

    @classmethod
    def of(cls, num_atoms: npt.NDArray[np.int32], label_bits: npt.NDArray[np.uint8]) -> LabelCounts:
        """Count the labels of structures, see `StructureBatch.label_bits`."""
        energy, forces, stress = (label_bits & (1 << place) != 0 for place in range(len(LABELS)))
        return cls(int(energy.sum()), int(num_atoms[forces].sum()), int(stress.sum()))

    @property
    def components(self) -> tuple[int, int, int]:
        """Numbers that are compared, by label."""
        return self.energies, 3 * self.force_atoms, 6 * self.stresses


class SourceShare(NamedTuple):
    """This rank's share of one source's global batch.

    Attributes:
        source: Name of the source.
        structures: First structure and structure after the last, within the local batch.
        atoms: First atom and atom after the last, within the local batch.
        here: Labels of the share.
        counts: Labels of the source in the whole global batch.
    """

    source: str
    structures: tuple[int, int]
    atoms: tuple[int, int]
    here: LabelCounts
    counts: LabelCounts


class Targets(NamedTuple):
    """Labels of a local batch, and their weights: zero where there is none.

    Attributes:
        energy_per_atom: Energy per atom without references in eV/atom, (S,).
        forces: Forces in eV/Å, (A, 3).
        stress: Stress in eV/Å^3, tension positive, in the order xx yy zz yz xz xy, (S, 6).
        energy_weight: Weight of each energy, (S,).
        forces_weight: Weight of each atom's force, (A,).
        stress_weight: Weight of each stress, (S,).
    """

    energy_per_atom: Tensor
    forces: Tensor
    stress: Tensor
    energy_weight: Tensor
    forces_weight: Tensor
    stress_weight: Tensor

    @classmethod
    def of(
        cls,
        batch: StructureBatch,
        target_ev_per_atom: npt.NDArray[np.float64],
        *,
        dtype: torch.dtype,
    ) -> Targets:
        """Labels of structures as tensors.

        Args:
            batch: The structures.
            target_ev_per_atom: Their energies per atom without references, (S,).
            dtype: Floating type of the tensors.
        """
        weights = {
            label: getattr(batch, f"{label}_weight") * getattr(batch, f"{label}_mask")
            for label in LABELS
        }
        return cls(
            *(
                torch.from_numpy(values).to(dtype)
                for values in (
                    target_ev_per_atom,
                    batch.forces,
                    batch.stress,
                    weights["energy"],
                    np.repeat(weights["forces"], batch.num_atoms),
                    weights["stress"],
                )
            )
        )


class Objective:
    """Local terms of L, and L itself from the terms summed over all ranks."""

    def __init__(
        self, weights: Mapping[str, tuple[float, float, float]], losses: Losses | None = None
    ) -> None:
        """Fix weights and losses.

        Args:
            weights: w_tE lambda_E, w_tF lambda_F and w_tS lambda_S of all sources of the model;
                their order is the order of the terms.
            losses: rho of each label; l1 by default.
        """
        losses = losses or Losses()
        self.sources = tuple(weights)
        self._row = {source: row for row, source in enumerate(self.sources)}
        self.weights = torch.tensor(list(weights.values()), dtype=torch.float64)
        self._kinds = tuple(getattr(losses, label) for label in LABELS)
        self._losses = tuple(map(_loss_function, self._kinds))

    @property
    def term_names(self) -> tuple[str, ...]:
        """What the terms of a source are called: mean absolute errors, or losses of a kind."""
        return tuple(
            MAE_NAMES[label] if loss.kind == "l1" else f"{label}_{loss.kind}_loss"
            for label, loss in zip(LABELS, self._kinds, strict=True)
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the terms: sources by labels."""
        return len(self.sources), len(LABELS)

    def terms(
        self, prediction: Prediction, targets: Targets, shares: Sequence[SourceShare]
    ) -> Tensor:
        """This rank's contributions to the mean losses of the global batch.

        Returns:
            (T, 3): for each source the terms of energy, forces and stress in their units (their
            squares for l2), without w and lambda. Summed over all ranks they are the mean losses
            of the global batch; zero where it has no such label or the model predicts none.
        """
        of_energy, of_forces, of_stress = self._losses
        energy = targets.energy_weight * of_energy(
            prediction.energy_per_atom - targets.energy_per_atom
        )
        forces = targets.forces_weight * of_forces(prediction.forces - targets.forces).sum(dim=1)
        stress = self._stress_losses(prediction, targets, of_stress)
        zero = energy.new_zeros(())
        rows = [[zero] * len(LABELS) for _ in self._row]
        for share in shares:
            sums = (
                energy[slice(*share.structures)],
                forces[slice(*share.atoms)],
                None if stress is None else stress[slice(*share.structures)],
            )
            rows[self._row[share.source]] = [
                zero if losses is None or count == 0 else losses.sum() / count
                for losses, count in zip(sums, share.counts.components, strict=True)
            ]
        return torch.stack([torch.stack(row) for row in rows])

    def count_labels(self, shares: Iterable[SourceShare]) -> list[float]:
        """Labels of this rank's shares by source and label, as the terms are laid out, (3 T,)."""
        counts = np.zeros(self.shape)
        for share in shares:
            counts[self._row[share.source]] += share.here
        flat: list[float] = counts.ravel().tolist()
        return flat

    def total(self, terms: Tensor) -> Tensor:
        """L, or this rank's part of it, from (T, 3) terms."""
        return (self.weights.to(terms) * terms).sum()

    def _stress_losses(
        self, prediction: Prediction, targets: Targets, loss: Callable[[Tensor], Tensor]
    ) -> Tensor | None:
        """Losses of each structure's stress, (S,); None without stresses to predict or to learn."""
        if prediction.stress is None or not self.weights[:, LABELS.index("stress")].any():
            return None
        predicted = prediction.stress[:, *SIX_OF_MATRIX]
        # Where there is no label the prediction may be NaN, for lack of a volume.
        has_label = targets.stress_weight[:, None] > 0
        error = torch.where(has_label, predicted - targets.stress, torch.zeros_like(predicted))
        return targets.stress_weight * loss(error).sum(dim=1)


def _loss_function(loss: Loss) -> Callable[[Tensor], Tensor]:
    """The function rho of the module's docstring, element by element."""
    if loss.kind == "l1":
        return torch.abs
    if loss.kind == "l2":
        return torch.square

    def huber(error: Tensor) -> Tensor:
        size, delta = error.abs(), loss.delta
        return torch.where(size < delta, error * error / (2 * delta), size - delta / 2)

    return huber
