"""Splits by group and by hash: the same for any number of jobs, any file order, any second run."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import SPLITS
from mtlpar.core.hashing import UInt64Array, derive_seed, uniform_from_hash

SplitArray = npt.NDArray[np.int8]
FloatArray = npt.NDArray[np.float64]

TRAIN: Final = SPLITS.index("train")
VAL: Final = SPLITS.index("val")
TEST: Final = SPLITS.index("test")
DROPPED: Final = -1


def assign_splits(
    unit: UInt64Array,
    official_split: SplitArray,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> SplitArray:
    """Give each structure the split of its unit: its group, or itself.

    A unit's hash decides, so that neither other units nor their order matter. Only where this
    leaves a requested split without any unit (few groups), the training units with the smallest
    hashes fill it, as long as train has others. Official splits win where the source has them.

    Args:
        unit: Hash of what must stay in one split, (S,).
        official_split: The source's own split, -1 where it has none, (S,).
        val_fraction: Share of units for validation.
        test_fraction: Share of units for test.
        seed: The run's seed.

    Returns:
        Split of each structure as its position in `SPLITS`, (S,).

    Raises:
        ValueError: If a unit lies in two official splits.
    """
    # Frames of a group stand together: one row of each run is enough, and there are few runs.
    starts = _run_starts(unit, official_split)
    units, first, member = np.unique(unit[starts], return_index=True, return_inverse=True)
    run_official = official_split[starts]
    official = run_official[first]
    if not np.array_equal(official[member], run_official):
        raise ValueError(
            "a group lies in two official splits, and must lie in one: the raw files are not the "
            "released ones, or set normalize.official_splits to false"
        )
    with np.errstate(over="ignore"):
        draw = uniform_from_hash(units + np.uint64(derive_seed(seed, "split")))
    split = np.where(
        draw < test_fraction, TEST, np.where(draw < test_fraction + val_fraction, VAL, TRAIN)
    ).astype(np.int8)
    split = np.where(official >= 0, official, split).astype(np.int8)
    _fill_empty(split, draw, wanted={TEST: test_fraction > 0, VAL: val_fraction > 0})
    return np.repeat(split[member], np.diff(np.append(starts, len(unit))))


def split_blocks(group: UInt64Array, *, val_fraction: float, test_fraction: float) -> SplitArray:
    """Cut the frames of each group, in their order, into train, then val, then test.

    Frames of one trajectory that follow each other are alike; in blocks only those at the two cuts
    are neighbours of another split.

    Args:
        group: Hash of each structure's group, in the order of the files, (S,).
        val_fraction: Share of a group's frames for validation, at least one of three.
        test_fraction: The same for test.

    Returns:
        Split of each structure as its position in `SPLITS`, (S,).
    """
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.append(True, group[order][1:] != group[order][:-1]))
    sizes = np.diff(np.append(starts, len(group)))
    split = np.full(len(group), TRAIN, np.int8)
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        if size < len(SPLITS):
            continue
        tests, vals = (max(1, round(size * share)) for share in (test_fraction, val_fraction))
        tests = min(tests, size - 2)
        vals = min(vals, size - 1 - tests)
        frames = order[start : start + size]
        split[frames[size - tests :]] = TEST
        split[frames[size - tests - vals : size - tests]] = VAL
    return split


def keep_together(name: UInt64Array, split: SplitArray) -> SplitArray:
    """Move all that have one name to the first of their splits, train if it is among them.

    Args:
        name: Names of geometries, (S,).
        split: Split of each structure, (S,).
    """
    rows = repeated(name)
    if len(rows) == 0:
        return split
    moved = split.copy()
    starts = np.flatnonzero(np.append(True, name[rows[1:]] != name[rows[:-1]]))
    sizes = np.diff(np.append(starts, len(rows)))
    moved[rows] = np.repeat(np.minimum.reduceat(split[rows], starts), sizes)
    return moved


def _run_starts(unit: UInt64Array, official_split: SplitArray) -> npt.NDArray[np.intp]:
    changes = (unit[1:] != unit[:-1]) | (official_split[1:] != official_split[:-1])
    return np.flatnonzero(np.concatenate([[True], changes]))


def _fill_empty(
    split: SplitArray, draw: npt.NDArray[np.float64], *, wanted: dict[int, bool]
) -> None:
    for target, is_wanted in wanted.items():
        if not is_wanted or (split == target).any():
            continue
        in_train = np.flatnonzero(split == TRAIN)
        if len(in_train) > 1:
            split[in_train[np.argmin(draw[in_train])]] = target


def first_of_duplicates(
    name: UInt64Array,
    structure_id: UInt64Array,
    group: UInt64Array,
    energy: FloatArray,
    num_labels: npt.NDArray[np.integer],
) -> npt.NDArray[np.bool_]:
    """Mark one structure of each set of duplicates, whatever their order.

    Of several copies one with most labels stays, of those the one in the group with the smallest
    hash, of those in one group the one with the lowest energy, and then with the smallest hash.

    Args:
        name: What duplicates have in common: their hash, or the name of their geometry, (S,).
        structure_id: Hash of each structure, (S,).
        group: Hash of its group, (S,).
        energy: Its energy, (S,).
        num_labels: How many labels it has, (S,).

    Returns:
        True for the structures to keep, (S,).
    """
    keep = np.ones(len(name), dtype=bool)
    rows = repeated(name)
    keys = (structure_id, energy, group, -num_labels, name)
    order = np.lexsort([key[rows] for key in keys])
    names = name[rows][order]
    keep[rows[order[1:]]] = names[1:] != names[:-1]
    return keep


def find_contradictions(
    name: UInt64Array, energy_ev_per_atom: FloatArray, *, limit_ev_per_atom: float
) -> UInt64Array:
    """Names, in ascending order, under which energies are further apart than a limit.

    Args:
        name: What duplicates have in common, (S,).
        energy_ev_per_atom: Energy per atom of each structure, (S,).
        limit_ev_per_atom: How far apart energies of duplicates may be.
    """
    rows = repeated(name)
    if len(rows) == 0:
        return rows.astype(np.uint64)
    names, energies = name[rows], energy_ev_per_atom[rows]
    starts = np.flatnonzero(np.append(True, names[1:] != names[:-1]))
    ranges = np.maximum.reduceat(energies, starts) - np.minimum.reduceat(energies, starts)
    return np.asarray(names[starts[ranges > limit_ev_per_atom]])


def count_overlap(key: UInt64Array, split: SplitArray) -> int:
    """Number of keys (groups or structures) that lie in more than one split.

    Args:
        key: Hash of each structure's group, or of itself, (S,).
        split: Split of each structure; `DROPPED` ones do not count, (S,).
    """
    kept = split != DROPPED
    keys, splits = key[kept], split[kept]
    order = np.argsort(keys)
    keys, splits = keys[order], splits[order]
    return len(np.unique(keys[1:][(keys[1:] == keys[:-1]) & (splits[1:] != splits[:-1])]))


def repeated(values: UInt64Array) -> npt.NDArray[np.intp]:
    """Positions of all values that occur more than once, in the order of the values."""
    order = np.argsort(values)
    ordered = values[order]
    same = ordered[1:] == ordered[:-1]
    is_repeated = np.zeros(len(values), np.bool_)
    is_repeated[1:] |= same
    is_repeated[:-1] |= same
    return np.asarray(order[is_repeated])
