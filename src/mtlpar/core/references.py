"""Per-element reference energies: total energy <-> energy per atom without references.

The transformation is in float64 and reversible; an element without a reference is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ase.data import atomic_numbers as _Z_OF_SYMBOL
from ase.data import chemical_symbols

from mtlpar.core.fields import MAX_ATOMIC_NUMBER
from mtlpar.core.structures import StructureBatch

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class References:
    """Reference energy e_Z of each element that a source's training split holds.

    Attributes:
        energies_ev: Reference energy in eV by chemical symbol.
    """

    energies_ev: Mapping[str, float]

    def table(self) -> FloatArray:
        """Energies by atomic number, NaN where undefined: (119,), row 0 unused."""
        table = np.full(MAX_ATOMIC_NUMBER + 1, np.nan)
        for symbol, energy in self.energies_ev.items():
            table[_Z_OF_SYMBOL[symbol]] = energy
        return table

    def sums(self, batch: StructureBatch) -> FloatArray:
        """Sum of the references of each structure's atoms in eV, (S,).

        Raises:
            ValueError: If an element has no reference; the message lists those that have.
        """
        sums = reference_sums(self.table(), batch.num_atoms, batch.atomic_numbers)
        if np.isnan(sums).any():
            absent = np.flatnonzero(np.isnan(self.table()))
            absent = absent[np.isin(absent, batch.atomic_numbers)]
            raise ValueError(
                f"no reference energy for {', '.join(chemical_symbols[z] for z in absent)}: the "
                "training data of this source does not hold it. Elements with a reference: "
                f"{', '.join(self.energies_ev)}"
            )
        return sums

    def to_target(self, batch: StructureBatch) -> FloatArray:
        """Training target (E_total - sum of references) / N in eV/atom, (S,).

        It is zero where there is no energy; then elements need no reference either.

        Raises:
            ValueError: If an element of a structure with an energy has no reference.
        """
        has_energy = batch.has("energy")
        if has_energy.all():
            target: FloatArray = (batch.energy - self.sums(batch)) / batch.num_atoms
            return target
        target = np.zeros(len(batch))
        target[has_energy] = self.to_target(batch.take(np.flatnonzero(has_energy)))
        return target

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> References:
        """Build from the ``energies_ev`` of a references file or pack attribute."""
        return cls({str(key): float(value) for key, value in content.items()})


def reference_sums(
    table: FloatArray,
    num_atoms: npt.NDArray[np.int32],
    atomic_numbers: npt.NDArray[np.uint8],
) -> FloatArray:
    """Sum of the references of each structure's atoms in eV, (S,).

    Args:
        table: Reference energies by atomic number, NaN where undefined, (119,).
        num_atoms: Atoms per structure, (S,).
        atomic_numbers: Elements of all atoms, structure after structure, (A,).

    Returns:
        The sums; NaN where an element has no reference.
    """
    sums = np.zeros(len(num_atoms))
    filled = num_atoms > 0
    if filled.any():
        starts = np.cumsum(num_atoms, dtype=np.int64) - num_atoms
        # Nothing but a structure's own atoms: the last bit of its sum must not depend on its place.
        sums[filled] = np.add.reduceat(table[atomic_numbers], starts[filled])
    return sums
