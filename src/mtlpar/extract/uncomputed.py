"""Looks for labels that are there but were not computed: programs write zeros or one number then.

ASE gives the energy 0 to frames of a LAMMPS dump, several calculators and converters fill in zero
forces or stresses, and some readers repeat the last energy of a file in all its frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import LABELS
from mtlpar.core.structures import StructureBatch, segment_sum
from mtlpar.core.wording import counted

FloatArray = npt.NDArray[np.float64]
_Range = tuple[float, float]

_NOTHING: Final[_Range] = (np.inf, -np.inf)
# How far forces of copies that are turned or rounded may be apart, as a ratio.
_SAME_FORCES: Final = 1.01


class Uncomputed:
    """Counts of labels that are exactly zero where computed ones are not.

    Attributes:
        looked_at: Structures with each label, by label: energies of structures whose atoms feel
            forces, forces of several atoms, stresses.
        zeros: Those of them whose label is exactly zero.
        energy_range_ev: Lowest and highest of these energies.
        force_range_ev_per_angstrom: The same of the sums of their forces' lengths.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.looked_at: Counter[str] = Counter()
        self.zeros: Counter[str] = Counter()
        self.energy_range_ev = self.force_range_ev_per_angstrom = _NOTHING

    def add(self, batch: StructureBatch, lengths: FloatArray) -> None:
        """Take in structures, and the lengths of the forces on their atoms in eV/Å, (A,)."""
        size = segment_sum(lengths, batch.num_atoms)
        forced = size > 0
        told = {
            "energy": (batch.has("energy") & batch.has("forces") & forced, batch.energy == 0),
            "forces": (batch.has("forces") & (batch.num_atoms > 1), ~forced),
            "stress": (batch.has("stress"), (batch.stress == 0).all(axis=1)),
        }
        for label, (looked_at, zero) in told.items():
            self.looked_at[label] += int(looked_at.sum())
            self.zeros[label] += int((looked_at & zero).sum())
        looked_at, _ = told["energy"]
        self._widen(_range(batch.energy[looked_at]), _range(size[looked_at]))

    def merge(self, other: Uncomputed) -> None:
        """Take in what was found in another part of the data."""
        self.looked_at.update(other.looked_at)
        self.zeros.update(other.zeros)
        self._widen(other.energy_range_ev, other.force_range_ev_per_angstrom)

    def as_dict(self) -> dict[str, Any]:
        """Plain content for the manifest, and for `from_record`."""
        return {
            "looked_at": {label: self.looked_at[label] for label in LABELS},
            "zeros": {label: self.zeros[label] for label in LABELS},
            "energy_range_ev": list(self.energy_range_ev) if self.looked_at["energy"] else None,
            "force_range_ev_per_angstrom": (
                list(self.force_range_ev_per_angstrom) if self.looked_at["energy"] else None
            ),
        }

    @classmethod
    def from_record(cls, content: dict[str, Any]) -> Uncomputed:
        """What `as_dict` wrote."""
        found = cls()
        found.looked_at, found.zeros = Counter(content["looked_at"]), Counter(content["zeros"])
        found._widen(
            tuple(content["energy_range_ev"] or _NOTHING),
            tuple(content["force_range_ev_per_angstrom"] or _NOTHING),
        )
        return found

    def the_only_energy(self, structures: int) -> float | None:
        """The energy (eV) that all of this many structures have though forces differ, if so.

        Copies have one energy, and then their forces are as large.
        """
        lowest, highest = self.energy_range_ev
        if structures == 0 or self.looked_at["energy"] < structures or lowest != highest:
            return None
        smallest, largest = self.force_range_ev_per_angstrom
        return lowest if lowest == 0 or largest > _SAME_FORCES * smallest else None

    def problems(self) -> Iterator[str]:
        """What looks as if it had not been computed and what to do then, a sentence per label.

        A single energy of zero may be the zero that the others are measured from.
        """
        if (zeros := self.zeros["energy"]) > 1:
            yield (
                f"the energy is exactly 0 in {zeros} structures whose forces are not; if it was "
                "not computed, remove it there"
            )
        for label in ("forces", "stress"):
            if (zeros := self.zeros[label]) and zeros == self.looked_at[label]:
                yield (
                    f"{label}: exactly 0 in {counted(zeros, 'structure')}, all that have it; if it "
                    "was not computed, set its key to null"
                )

    def _widen(self, energy: _Range, force: _Range) -> None:
        self.energy_range_ev = _union(self.energy_range_ev, energy)
        self.force_range_ev_per_angstrom = _union(self.force_range_ev_per_angstrom, force)


def _range(values: FloatArray) -> _Range:
    return (float(values.min()), float(values.max())) if len(values) else _NOTHING


def _union(one: _Range, other: _Range) -> _Range:
    return min(one[0], other[0]), max(one[1], other[1])
