"""Looks at stresses where no frames are neighbours: sign and size from structures of other volume.

Of two structures of one composition the larger one is pulled, so with tension positive
tr(stress) / 3 grows with the volume. Its slope against ln V is a bulk modulus, which lies between
0.003 eV/Å^3 (0.5 GPa, solid argon and softer) and 3 eV/Å^3 (440 GPa, diamond).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.composition import hash_compositions
from mtlpar.core.structures import StructureBatch
from mtlpar.core.wording import counted
from mtlpar.extract.slopes import Slopes

IndexArray = npt.NDArray[np.intp]
FloatArray = npt.NDArray[np.float64]

MIN_PAIRS: Final = 10
_MIN_CHANGE_OF_LOG_VOLUME: Final = 5e-3
_BULK_MODULI_EV_PER_CUBIC_ANGSTROM: Final = (1e-3, 6.0)


class StressSize:
    """Distribution of apparent bulk moduli.

    Attributes:
        moduli: Changes of tr(stress) / 3 over those of ln V, in eV/Å^3.
    """

    def __init__(self) -> None:
        """Start without pairs."""
        self.moduli = Slopes()

    def add(self, batch: StructureBatch) -> None:
        """Take in pairs of structures of a batch that differ in their volume."""
        chosen = np.flatnonzero(batch.has("stress") & batch.pbc.all(axis=1))
        if len(chosen) < 2:
            return
        composition = hash_compositions(batch.num_atoms, batch.atomic_numbers)
        keys = np.stack([composition, batch.num_atoms.astype(np.uint64)], axis=1)
        log_volume = np.log(np.abs(np.linalg.det(batch.cell[chosen].astype(np.float64))))
        keys = keys[chosen]
        pressure = batch.stress[chosen, :3].astype(np.float64).mean(axis=1)
        order = np.lexsort((log_volume, *keys.T))
        changes = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
        composition_of = np.concatenate([[0], np.cumsum(changes)])
        small, large = _clear_pairs(composition_of, log_volume[order])
        growth, tension = (
            np.take(one[order], large) - np.take(one[order], small)
            for one in (log_volume, pressure)
        )
        self.moduli.add(tension, growth)

    def merge(self, other: StressSize) -> None:
        """Take in the pairs of another part of the data."""
        self.moduli.merge(other.moduli)

    def as_dict(self) -> dict[str, Any]:
        """What the manifest keeps: the median and quartiles of the moduli."""
        found = self.moduli.as_dict(at_least=MIN_PAIRS)
        return {
            "pairs": found["pairs"],
            "bulk_modulus_ev_per_cubic_angstrom": found["slope"],
            "quartiles": found["quartiles"],
        }

    def problem(self) -> str | None:
        """What is unlikely about the stresses, if anything is."""
        found = self.moduli.quartiles(at_least=MIN_PAIRS)
        if found is None:
            return None
        low, modulus, high = found
        smallest, largest = _BULK_MODULI_EV_PER_CUBIC_ANGSTROM
        about = (
            f"stresses change with the volume as if the bulk modulus were {modulus:.3g} eV/Å^3 "
            f"(median of {counted(self.moduli.count, 'pair')}, quartiles {low:.3g} and {high:.3g})"
        )
        if abs(modulus) > largest:
            return f"{about}, far more than diamond's 3: they may be virials, or in another unit"
        if high < 0:
            return f"{about}: larger cells are pushed, so the sign of the stress is wrong"
        if 0 < modulus < smallest:
            return f"{about}, less than any solid's: they may be in another unit"
        return None


def _clear_pairs(composition: IndexArray, log_volume: FloatArray) -> tuple[IndexArray, IndexArray]:
    """Each structure with the next larger one of its composition whose volume clearly differs.

    The next one alone would not do: of many strained cells of one crystal the volumes lie closer
    than noise.

    Args:
        composition: Number of the composition, ascending, (S,).
        log_volume: ln V, ascending within a composition, (S,).

    Returns:
        Positions of the smaller and of the larger ones.
    """
    # Volumes of any two compositions lie further apart than those of one.
    place = log_volume + (1.0 + np.ptp(log_volume)) * composition
    partner = np.searchsorted(place, place + _MIN_CHANGE_OF_LOG_VOLUME, side="right")
    small = np.flatnonzero(partner < len(place))
    small = small[composition[partner[small]] == composition[small]]
    return small, partner[small]
