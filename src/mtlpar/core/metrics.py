"""Error sums that merge exactly over batches and ranks, and the numbers that come from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.error_names import MAE_NAMES, RMSE_NAMES
from mtlpar.core.structures import StructureBatch

FloatArray = npt.NDArray[np.floating]

_COUNTS: Final = frozenset(f"{label}_count" for label in MAE_NAMES)


@dataclass(kw_only=True)
class ErrorSums:
    """Sums over the components of labels that structures have, in float64.

    Means are taken once, at the end, over everything: a mean of means would depend on how the
    structures were batched.
    """

    energy_count: int = 0
    energy_abs: float = 0.0
    energy_square: float = 0.0
    forces_count: int = 0
    forces_abs: float = 0.0
    forces_square: float = 0.0
    stress_count: int = 0
    stress_abs: float = 0.0
    stress_square: float = 0.0

    def add(
        self,
        batch: StructureBatch,
        *,
        energy_error_ev_per_atom: FloatArray,
        forces: FloatArray,
        stress: FloatArray | None = None,
    ) -> None:
        """Add errors of predictions; labels that structures lack do not count.

        Args:
            batch: S structures with A atoms and their labels.
            energy_error_ev_per_atom: Errors of the energy per atom, (S,).
            forces: Predicted forces in eV/Å, (A, 3).
            stress: Predicted stresses in eV/Å^3, (S, 6); None if there are none.
        """
        self._add("energy", energy_error_ev_per_atom[batch.has("energy")])
        of_atoms = np.repeat(batch.has("forces"), batch.num_atoms)
        self._add("forces", forces[of_atoms].astype(np.float64) - batch.forces[of_atoms])
        if stress is not None:
            chosen = batch.has("stress")
            self._add("stress", stress[chosen].astype(np.float64) - batch.stress[chosen])

    def _add(self, label: str, error: FloatArray) -> None:
        error = error.astype(np.float64)
        for name, value in (
            ("count", error.size),
            ("abs", float(np.abs(error).sum())),
            ("square", float((error**2).sum())),
        ):
            setattr(self, f"{label}_{name}", getattr(self, f"{label}_{name}") + value)

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> ErrorSums:
        """Rebuild from the fields in order, as they come back from a sum over ranks."""
        sums = cls()
        for field, number in zip(fields(cls), numbers, strict=True):
            setattr(sums, field.name, int(number) if field.name in _COUNTS else number)
        return sums

    def merge(self, other: ErrorSums) -> None:
        """Add the sums of other structures."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def as_dict(self) -> dict[str, float]:
        """Means in the units and under the names of ``results/metrics``.

        Labels that no structure has are left out.
        """
        means = {}
        for label, mae_name in MAE_NAMES.items():
            count = getattr(self, f"{label}_count")
            if count:
                means[mae_name] = getattr(self, f"{label}_abs") / count
                means[RMSE_NAMES[label]] = (getattr(self, f"{label}_square") / count) ** 0.5
        return means
