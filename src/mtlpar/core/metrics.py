"""Error sums that merge exactly over batches and ranks, and the numbers that come from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


@dataclass(kw_only=True)
class ErrorSums:
    """Sums over structures and force components, in float64.

    Means are taken once, at the end, over everything: a mean of means would depend on how the
    structures were batched.
    """

    num_structures: int = 0
    num_atoms: int = 0
    energy_abs: float = 0.0
    energy_square: float = 0.0
    force_abs: float = 0.0
    force_square: float = 0.0

    def add(self, energy_error_ev_per_atom: FloatArray, force_error: FloatArray) -> None:
        """Add errors of some structures.

        Args:
            energy_error_ev_per_atom: (S,) errors of the energy per atom.
            force_error: (A, 3) errors of the forces in eV/Å.
        """
        energy = energy_error_ev_per_atom.astype(np.float64)
        force = force_error.astype(np.float64)
        self.num_structures += len(energy)
        self.num_atoms += len(force)
        self.energy_abs += float(np.abs(energy).sum())
        self.energy_square += float((energy**2).sum())
        self.force_abs += float(np.abs(force).sum())
        self.force_square += float((force**2).sum())

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> ErrorSums:
        """Rebuild from the fields in order, as they come back from a sum over ranks."""
        structures, atoms, energy_abs, energy_square, force_abs, force_square = numbers
        return cls(
            num_structures=int(structures),
            num_atoms=int(atoms),
            energy_abs=energy_abs,
            energy_square=energy_square,
            force_abs=force_abs,
            force_square=force_square,
        )

    def merge(self, other: ErrorSums) -> None:
        """Add the sums of other structures."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def as_dict(self) -> dict[str, float]:
        """Means in the units and under the names of ``results/metrics``.

        Raises:
            ValueError: If there is nothing to take a mean of.
        """
        if self.num_structures == 0:
            raise ValueError("no structure was evaluated; there is no error to report")
        components = 3 * self.num_atoms
        return {
            "energy_mae_ev_per_atom": self.energy_abs / self.num_structures,
            "energy_rmse_ev_per_atom": (self.energy_square / self.num_structures) ** 0.5,
            "force_mae_ev_per_angstrom": self.force_abs / components,
            "force_rmse_ev_per_angstrom": (self.force_square / components) ** 0.5,
        }
