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
        per_atom = self.table()[batch.atomic_numbers]
        if np.isnan(per_atom).any():
            absent = sorted(set(batch.atomic_numbers[np.isnan(per_atom)].tolist()))
            raise ValueError(
                f"no reference energy for {', '.join(chemical_symbols[z] for z in absent)}: the "
                "training data of this source does not hold it. Elements with a reference: "
                f"{', '.join(self.energies_ev)}"
            )
        padded = np.concatenate([per_atom, [0.0]])
        sums = np.add.reduceat(padded, batch.offsets[:-1]) if len(batch) else np.zeros(0)
        return np.where(batch.num_atoms > 0, sums, 0.0)

    def to_target(self, batch: StructureBatch) -> FloatArray:
        """Training target (E_total - sum of references) / N in eV/atom, (S,)."""
        target: FloatArray = (batch.energy - self.sums(batch)) / batch.num_atoms
        return target

    def to_total_energy(self, target_ev_per_atom: FloatArray, batch: StructureBatch) -> FloatArray:
        """Total energy in eV from the energy per atom without references: undoes `to_target`."""
        energy: FloatArray = target_ev_per_atom * batch.num_atoms + self.sums(batch)
        return energy

    def defined_mask(self, batch: StructureBatch) -> npt.NDArray[np.bool_]:
        """Whether all elements of each structure have a reference, (S,)."""
        undefined = np.isnan(self.table()[batch.atomic_numbers])
        owner = np.repeat(np.arange(len(batch)), batch.num_atoms)
        mask: npt.NDArray[np.bool_] = np.bincount(owner[undefined], minlength=len(batch)) == 0
        return mask

    @classmethod
    def from_table(cls, table: FloatArray) -> References:
        """Build from energies by atomic number, NaN where undefined, (119,)."""
        return cls({chemical_symbols[z]: float(table[z]) for z in np.flatnonzero(~np.isnan(table))})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> References:
        """Build from the ``energies_ev`` of a references file or pack attribute."""
        return cls({str(key): float(value) for key, value in content.items()})
