"""Numbers that tell geometries apart however they are written: moved, rotated, reordered, wrapped.

Copies of a geometry differ by rounding. So a fingerprint is no hash of the geometry: its words are
sums over atoms in steps of a sixteenth of what rounding may change, to be compared with that
tolerance. Mirror images have the same distances and energies, and the same fingerprint.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.composition import HASH_OF_ELEMENT, hash_compositions
from mtlpar.core.fields import FIELDS
from mtlpar.core.hashing import mix64, uniform_from_hash
from mtlpar.core.ragged import split_by_load
from mtlpar.core.structures import StructureBatch, identity_of
from mtlpar.graph.far import extents, periodic_cells, ripples
from mtlpar.graph.neighbors import neighbor_list
from mtlpar.graph.settings import GraphSettings

UInt32Array = npt.NDArray[np.uint32]
FloatArray = npt.NDArray[np.float64]

TOLERANCE: Final = 16
"""Words of copies differ by this at most."""

# What rounding of positions within 100 Å of the origin to float32 may change the sums by, one
# number for each of them; benchmarks/identity.py measures it.
_ROUNDING: Final = (2e-5, 4e-5, 2e-3, 2e-3)
_ZERO: Final = np.int64(1) << 31
_CUTOFF_ANGSTROM: Final = 5.0
# Distances that differ by 0.01 Å are a sixth of a wave apart.
_WAVES_PER_ANGSTROM: Final = 16.0
# Pairs of neighbours that are looked at together.
_CHUNK: Final = 16_000
# Atoms of open structures have fewer neighbours than this, unless something is wrong.
_OPEN_NEIGHBOURS: Final = 200
# A structure with more pairs of neighbours has a cell a hundred times too small, and would take
# gigabytes: it gets no fingerprint.
_MAX_PAIRS: Final = 5_000_000


def _numbers_of_elements(purpose: int) -> FloatArray:
    """Some number between 0.5 and 1.5 for each element, another one for each purpose, (119,)."""
    return 0.5 + uniform_from_hash(HASH_OF_ELEMENT + np.uint64(purpose))


_SENDER: Final = _numbers_of_elements(0)
_RECEIVER: Final = (_numbers_of_elements(1), _numbers_of_elements(2))


def fingerprints(batch: StructureBatch) -> UInt32Array:
    """Fingerprints of structures, which neither labels nor groups have a part in.

    The first word is a hash of what must be equal: elements, charge, spin, the number of periodic
    directions, and the identity that a reader gave. Zero stands for no fingerprint, and no hash is
    zero. The others are sums over atoms, to be compared with `TOLERANCE`.

    Args:
        batch: Structures with finite positions and cells that span their periodic directions.

    Returns:
        Words of each structure; zeros where its cell is impossibly small, (S, 5).

    Raises:
        ValueError: If a periodic structure has a cell that does not span its directions.
    """
    words = np.zeros((len(batch), *FIELDS["fingerprint"].shape), np.uint32)
    pairs = _pairs(batch)
    possible = np.flatnonzero(pairs <= _MAX_PAIRS)
    words[possible, 0] = np.maximum(_state(batch)[possible] >> np.uint64(32), 1)
    for piece in split_by_load(pairs[possible], _CHUNK):
        chosen = possible[piece]
        structures = batch.take(chosen)
        steps = np.floor(_sums(structures) * (TOLERANCE / np.array(_ROUNDING))).astype(np.int64)
        words[chosen, 1:] = (steps + _ZERO).astype(np.uint32)
    return words


def _pairs(batch: StructureBatch) -> npt.NDArray[np.int64]:
    """About how many pairs of neighbours each structure has, rather too many, (S,)."""
    count = batch.num_atoms.astype(np.float64)
    pairs = count * np.minimum(count, _OPEN_NEIGHBOURS)
    periodic = np.flatnonzero(batch.pbc.any(axis=1))
    if len(periodic):
        cell = periodic_cells(batch, periodic)
        across = np.cross(cell[:, [1, 2, 0]], cell[:, [2, 0, 1]])
        heights = np.abs((across * cell).sum(axis=2)) / np.linalg.norm(across, axis=2)
        images = np.where(batch.pbc[periodic] != 0, 2 * _CUTOFF_ANGSTROM / heights, 1.0)
        pairs[periodic] = count[periodic] ** 2 * images.prod(axis=1)
    return np.ceil(np.minimum(pairs, 2.0 * _MAX_PAIRS)).astype(np.int64)


def _state(batch: StructureBatch) -> npt.NDArray[np.uint64]:
    """Hash of what must be equal in copies, (S,)."""
    state = mix64(hash_compositions(batch.num_atoms, batch.atomic_numbers))
    for values in (batch.charge, batch.spin, batch.pbc.astype(np.int64).sum(axis=1)):
        state = mix64(state + values.astype(np.int64).view(np.uint64))
    return mix64(state ^ identity_of(batch))


def _sums(batch: StructureBatch) -> FloatArray:
    """Sums over the atoms of each structure, over the root of their number, (S, 4).

    What rounding changes then does not grow with the structure. The first two tell most geometries
    apart, with what lies beyond the cutoff added to them. In a crystal sums change by the square of
    an atom's displacement only: for the last two, sums of short waves, even that is much.
    """
    near, medium, waves, later_waves = _environments(batch)
    elements = batch.atomic_numbers
    owner = np.repeat(np.arange(len(batch)), batch.num_atoms)
    root = np.sqrt(np.maximum(batch.num_atoms, 1))
    first, second = (table[elements] for table in _RECEIVER)
    sums = [first * near, second * medium, first * waves, second * later_waves]
    columns = [np.bincount(owner, values, len(batch)) / root for values in sums]
    weights = (first, second)
    for column, weight, size in zip(columns, weights, ripples(batch, weights), strict=False):
        column += root * (extents(batch, weight) + size)
    return np.stack(columns, axis=1)


def _environments(batch: StructureBatch) -> tuple[FloatArray, ...]:
    """Four sums over the neighbours of each atom, (A,) each.

    Their terms depend on distance and element, and fall to zero smoothly at the cutoff.
    """
    edges = neighbor_list(batch, GraphSettings(cutoff_angstrom=_CUTOFF_ANGSTROM))
    squared = np.zeros(len(edges.sender))
    for axis in range(3):
        along = batch.positions[:, axis].astype(np.float64)
        squared += (along[edges.sender] + edges.shift[:, axis] - along[edges.receiver]) ** 2
    part = squared / _CUTOFF_ANGSTROM**2
    rest = 1 - part
    # A power of three would take longer than all else.
    fall = _SENDER[batch.atomic_numbers][edges.sender] * (rest * rest * rest)
    turns = _WAVES_PER_ANGSTROM * np.sqrt(squared)
    waves = [fall * _wave(turns + start) for start in (0.0, 0.25)]
    terms = (fall, fall * (4 * part - 1), *waves)
    sums = [np.bincount(edges.receiver, term, batch.total_atoms) for term in terms]
    return tuple(np.asarray(values, np.float64) for values in sums)


def _wave(turns: FloatArray) -> FloatArray:
    """Smooth function of period 1 and mean 0, from -1 to 1: much faster than a cosine."""
    part = turns - np.floor(turns)
    part *= 1 - part
    wave: FloatArray = 32 * part * part - 16 / 15
    return wave
