"""Neighbour lists on an accelerator: atoms lie in bins as wide as the cutoff, all at once.

Every structure has bins of its own; an atom looks into those around its own bin, images included.
No step runs over structures or bins one by one, so that a thousand molecules or one large crystal
take the same few operations. On a CPU `mtlpar.graph.neighbors` is faster; the edges are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mtlpar.core.ragged import split_by_load
from mtlpar.core.structures import StructureBatch
from mtlpar.graph.cells import Cells
from mtlpar.graph.settings import GraphSettings

# A little beyond the cutoff, so that `_measure` alone decides about pairs at the cutoff.
_MARGIN: Final = 1 + 1e-6
# Bins along a direction, so that their numbers stay integers; more would only be narrower.
_MOST_BINS: Final = 1024
# Bins that atoms look into at a time: their atoms are some 20 million pairs, a gigabyte or two.
_BINS_AT_ONCE: Final = 1 << 20


class DeviceEdges(NamedTuple):
    """Directed edges on a device, in the order of `mtlpar.graph.neighbors.Edges`.

    Attributes:
        receiver: Atom that receives the message, (E,).
        sender: Atom that sends it, (E,).
        shift: Translation of the sender's periodic image in Å, (3, E) float64.
    """

    receiver: Tensor
    sender: Tensor
    shift: Tensor


def binned_neighbor_list(
    batch: StructureBatch, settings: GraphSettings, device: torch.device
) -> DeviceEdges:
    """The edges of `mtlpar.graph.neighbors.neighbor_list`, bit by bit, found on a device.

    Args:
        batch: The structures.
        settings: The neighbour graph.
        device: Where to search, and where the edges are to lie.

    Raises:
        ValueError: If a periodic structure has a cell that does not span its directions.
    """
    cells = Cells.of(batch)
    positions = torch.from_numpy(batch.positions).to(device, torch.float64).T.contiguous()
    binned = _Binned.of(batch, cells, positions, settings.cutoff_angstrom * _MARGIN)
    vectors = torch.from_numpy(cells.vectors).to(device)
    found = [
        _measure(positions, vectors, binned.structure, pairs, settings.cutoff_angstrom)
        for pairs in binned.pairs()
    ]
    receiver, sender, shift, squared = (
        torch.cat(columns, dim=-1) for columns in zip(*found, strict=True)
    )
    if settings.max_neighbors is not None:
        kept = nearest_on_device(receiver, squared, settings.max_neighbors)
        receiver, sender, shift = receiver[kept], sender[kept], shift[:, kept]
    return DeviceEdges(receiver, sender, shift)


def nearest_on_device(receiver: Tensor, distance: Tensor, count: int) -> Tensor:
    """Places of the ``count`` shortest edges of each receiver; of equal ones the first.

    Args:
        receiver: (E,) receiver of each edge, sorted.
        distance: (E,) lengths of the edges, or anything that grows with them.
        count: Edges to keep per receiver.

    Returns:
        Places in ascending order.
    """
    by_distance = torch.argsort(distance, stable=True)
    order = by_distance[torch.argsort(receiver[by_distance], stable=True)]
    first = torch.searchsorted(receiver, receiver)
    rank = torch.arange(len(receiver), device=receiver.device) - first
    return order[rank < count].sort().values


class _Candidates(NamedTuple):
    """Pairs that may lie within the cutoff.

    Attributes:
        receiver: First atom, (P,); sorted.
        sender: Second atom, (P,).
        image: Lattice translations of the second along the three vectors, (3, P).
    """

    receiver: Tensor
    sender: Tensor
    image: Tensor


@dataclass(frozen=True, slots=True)
class _Binned:
    """A atoms of S structures in their bins, which lie along the three lattice vectors.

    Attributes:
        structure: Structure of each atom, (A,).
        periodic: Whether structures repeat along each vector, (3, S).
        bins: Bins along each, (3, S).
        reach: How many bins further the cutoff ends, (3, S).
        first_bin: Number of the first bin of each structure, (S,).
        place: Bin of each atom, (3, A).
        wrap: Image of the cell in which each atom lies, (3, A).
    """

    structure: Tensor
    periodic: Tensor
    bins: Tensor
    reach: Tensor
    first_bin: Tensor
    place: Tensor
    wrap: Tensor

    @classmethod
    def of(cls, batch: StructureBatch, cells: Cells, positions: Tensor, cutoff: float) -> _Binned:
        """Lay the atoms into bins, on the device of their positions (3, A) in Å."""
        device = positions.device
        inverse = np.linalg.inv(cells.triangle)
        # Distances between lattice planes.
        heights = torch.from_numpy(1 / np.linalg.norm(inverse, axis=1).T).to(device)
        periodic = torch.from_numpy(batch.pbc.T.astype(bool)).to(device)
        structure = torch.from_numpy(np.repeat(np.arange(len(batch)), batch.num_atoms)).to(device)
        to_fractions = torch.from_numpy(np.swapaxes(cells.axes, 1, 2) @ inverse).to(device)
        fraction = torch.einsum("xa,axd->da", positions, to_fractions[structure])
        wrap = fraction.floor() * periodic[:, structure]
        fraction -= wrap
        lowest = _of_each(fraction, structure, "amin", len(batch)).masked_fill(periodic, 0)
        highest = _of_each(fraction, structure, "amax", len(batch)).masked_fill(periodic, 1)
        span = highest - lowest
        # Atoms at NaN lie in the first bin and have no neighbours.
        bins = (span * heights / cutoff).nan_to_num().long().clamp(1, _MOST_BINS)
        part = (fraction - lowest[:, structure]) / span.clamp_min(1e-300)[:, structure]
        last = bins[:, structure] - 1
        place = (part * (last + 1)).nan_to_num().long().clamp_min(0).minimum(last)
        reach = torch.where(periodic, (cutoff / heights).ceil().long(), bins > 1)
        total = bins.prod(dim=0)
        return cls(structure, periodic, bins, reach, total.cumsum(0) - total, place, wrap.long())

    def pairs(self) -> Iterator[_Candidates]:
        """Each atom with those in the bins around its own, a bounded number of bins at a time."""
        sorted_bin, atom_of = self._bin(self.structure, self.place).sort(stable=True)
        around = (2 * self.reach + 1).prod(dim=0)[self.structure]
        for piece in split_by_load(around.cpu().numpy(), _BINS_AT_ONCE) or [slice(0)]:
            receiver, place, image = self._look_around(piece, around[piece])
            bins = self._bin(self.structure[receiver], place)
            first = torch.searchsorted(sorted_bin, bins)
            count = torch.searchsorted(sorted_bin, bins, right=True) - first
            sender = atom_of[_ragged_arange(first, count)]
            receiver = receiver.repeat_interleave(count)
            image = image.repeat_interleave(count, dim=1)
            image += self.wrap[:, receiver] - self.wrap[:, sender]
            yield _Candidates(receiver, sender, image)

    def _look_around(self, atoms: slice, around: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Atoms (N,) with the bins that each looks into (3, N), and their images (3, N)."""
        first = torch.arange(atoms.start or 0, atoms.stop, device=around.device)
        receiver = first.repeat_interleave(around)
        structure = self.structure[receiver]
        number = _ragged_arange(torch.zeros_like(first), around)
        reach = self.reach[:, structure]
        width = 2 * reach + 1
        rows = number // width[2]
        step = torch.stack([rows // width[1], rows % width[1], number % width[2]]) - reach
        place = self.place[:, receiver] + step
        bins = self.bins[:, structure]
        image = torch.div(place, bins, rounding_mode="floor")
        exists = (self.periodic[:, structure] | (image == 0)).all(dim=0)
        return receiver[exists], (place - image * bins)[:, exists], image[:, exists]

    def _bin(self, structure: Tensor, place: Tensor) -> Tensor:
        """Numbers of bins at places (3, N) of structures (N,)."""
        row = place[0] * self.bins[1][structure] + place[1]
        return self.first_bin[structure] + row * self.bins[2][structure] + place[2]


def _measure(
    positions: Tensor, vectors: Tensor, structure: Tensor, pairs: _Candidates, cutoff: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Receiver, sender, shift (3, P) and squared distance of pairs within the cutoff, sorted.

    The arithmetic is that of `mtlpar.graph.pairs.measure`.

    Args:
        positions: (3, A) coordinates in Å.
        vectors: (S, 3, 3) periodic lattice vectors in rows, in Å.
        structure: Structure of each atom, (A,).
        pairs: The pairs.
        cutoff: In Å.
    """
    receiver, sender, image = pairs
    lattice = vectors[structure[receiver]].permute(1, 2, 0)
    shift = image[0] * lattice[0]
    shift += image[1] * lattice[1]
    shift += image[2] * lattice[2]
    squared = torch.zeros_like(receiver, dtype=torch.float64)
    for axis in range(3):
        along = positions[axis][sender] + shift[axis]
        along -= positions[axis][receiver]
        squared += along * along
    is_other = (receiver != sender) | (image != 0).any(dim=0)
    order = torch.nonzero((squared < cutoff * cutoff) & is_other)[:, 0]
    for key in (image[2], image[1], image[0], sender, receiver):
        order = order[torch.argsort(key[order], stable=True)]
    return receiver[order], sender[order], shift[:, order], squared[order]


def _of_each(values: Tensor, structure: Tensor, which: str, count: int) -> Tensor:
    """Smallest or largest of values (3, A) in each structure, (3, S)."""
    found = values.new_zeros(3, count)
    return found.scatter_reduce(1, structure.expand(3, -1), values, which, include_self=False)


def _ragged_arange(starts: Tensor, counts: Tensor) -> Tensor:
    """See `mtlpar.core.ragged.ragged_arange`."""
    ends = counts.cumsum(0)
    first = (starts - (ends - counts)).repeat_interleave(counts)
    return first + torch.arange(len(first), device=first.device)
