"""Splits by group and by hash: the same for any number of jobs, any file order, any second run."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import SPLITS
from mtlpar.core.hashing import UInt64Array, derive_seed, uniform_from_hash

SplitArray = npt.NDArray[np.int8]

TRAIN: Final = SPLITS.index("train")
VAL: Final = SPLITS.index("val")
TEST: Final = SPLITS.index("test")
DROPPED: Final = -1


def assign_splits(
    group: UInt64Array,
    official_split: SplitArray,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> SplitArray:
    """Give each structure the split of its group.

    A group's hash decides, so that neither other groups nor their order matter. Only where this
    leaves a requested split without any group (few groups), the training groups with the smallest
    hashes fill it. Official splits win where the source has them.

    Args:
        group: Hash of each structure's group, (S,).
        official_split: The source's own split, -1 where it has none, (S,).
        val_fraction: Share of groups for validation.
        test_fraction: Share of groups for test.
        seed: The run's seed.

    Returns:
        Split of each structure as its position in `SPLITS`, (S,).

    Raises:
        ValueError: If there are too few groups for the requested splits, or if a group lies in
            two official splits.
    """
    groups, first, member = np.unique(group, return_index=True, return_inverse=True)
    official = official_split[first]
    if not np.array_equal(official[member], official_split):
        raise ValueError("a group lies in two official splits; it must lie in one")
    with np.errstate(over="ignore"):
        draw = uniform_from_hash(groups + np.uint64(derive_seed(seed, "split")))
    split = np.where(
        draw < test_fraction, TEST, np.where(draw < test_fraction + val_fraction, VAL, TRAIN)
    ).astype(np.int8)
    split = np.where(official >= 0, official, split).astype(np.int8)
    _fill_empty(split, draw, wanted={TEST: test_fraction > 0, VAL: val_fraction > 0})
    return split[member]


def _fill_empty(
    split: SplitArray, draw: npt.NDArray[np.float64], *, wanted: dict[int, bool]
) -> None:
    for target, is_wanted in wanted.items():
        if not is_wanted or (split == target).any():
            continue
        in_train = np.flatnonzero(split == TRAIN)
        if len(in_train) < 2:
            raise ValueError(
                f"only {len(split)} group(s): too few for train and {SPLITS[target]} without "
                "leaking; add data, or set normalize.val_fraction or test_fraction to 0"
            )
        split[in_train[np.argmin(draw[in_train])]] = target


def first_of_duplicates(structure_id: UInt64Array, group: UInt64Array) -> npt.NDArray[np.bool_]:
    """Mark one structure of each set of exact duplicates, whatever their order.

    Of several copies the one in the group with the smallest hash stays.

    Returns:
        True for the structures to keep, (S,).
    """
    order = np.lexsort((group, structure_id))
    keep = np.zeros(len(structure_id), dtype=bool)
    ordered = structure_id[order]
    keep[order[np.concatenate([[True], ordered[1:] != ordered[:-1]])]] = True
    return keep
