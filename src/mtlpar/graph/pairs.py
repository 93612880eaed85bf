"""Pairs of atoms within the cutoff, measured in one way whatever search proposed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class Pairs(NamedTuple):
    """Directed pairs within the cutoff, sorted by receiver, sender and image.

    Attributes:
        receiver: Atom that receives the message, (P,).
        sender: Atom that sends it, (P,).
        squared_distance: In Å², (P,).
        shift: Translation of the sender's image in Å, (3, P); None where all of them are zero.
    """

    receiver: IndexArray
    sender: IndexArray
    squared_distance: FloatArray
    shift: FloatArray | None = None

    def select(self, kept: BoolArray) -> Pairs:
        """Return the pairs that are marked, (P,)."""
        chosen = np.flatnonzero(kept)
        if len(chosen) == len(kept):
            return self
        return Pairs(
            self.receiver.take(chosen),
            self.sender.take(chosen),
            self.squared_distance.take(chosen),
            None if self.shift is None else self.shift.take(chosen, axis=1),
        )


def measure(
    positions: FloatArray,
    vectors: FloatArray,
    *,
    receiver: IndexArray,
    sender: IndexArray,
    image: Sequence[IndexArray],
    structure: IndexArray,
    cutoff: float,
) -> Pairs:
    """Keep the proposed pairs that are closer than the cutoff.

    Only element-wise float64 arithmetic in a fixed order: a pair gets the same bits in any batch
    and from any search, so that pairs at the cutoff and ties do not depend on the path.

    Args:
        positions: (3, A) coordinates in Å.
        vectors: (S, 3, 3) periodic lattice vectors in rows, in Å.
        receiver: (P,) atoms.
        sender: (P,) atoms.
        image: Lattice translations of the sender along the three vectors, (P,) each.
        structure: (P,) rows of ``vectors``.
        cutoff: In Å.
    """
    shift = np.empty((3, len(receiver)))
    squared = np.zeros(len(receiver))
    for axis in range(3):
        lattice = vectors[:, :, axis].T
        np.multiply(image[0], lattice[0].take(structure), out=shift[axis])
        shift[axis] += image[1] * lattice[1].take(structure)
        shift[axis] += image[2] * lattice[2].take(structure)
        along = positions[axis].take(sender)
        along += shift[axis]
        along -= positions[axis].take(receiver)
        along *= along
        squared += along
    kept = squared < cutoff * cutoff
    kept &= (receiver != sender) | (image[0] != 0) | (image[1] != 0) | (image[2] != 0)
    return Pairs(receiver, sender, squared, shift).select(kept)
