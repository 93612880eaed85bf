"""Which structures are there several times, and which of them are left out for it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from mtlpar.core.hashing import UInt64Array
from mtlpar.core.wording import counted
from mtlpar.normalize.copies import components, name_geometries
from mtlpar.normalize.split import find_contradictions, first_of_duplicates, repeated
from mtlpar.store.bp import BpReader
from mtlpar.store.extracted import ExtractedSource

BoolArray = npt.NDArray[np.bool_]
SplitArray = npt.NDArray[np.int8]

logger = logging.getLogger(__name__)
# Energies of one geometry that are further apart are of two levels of theory, or one is wrong.
SAME_EV_PER_ATOM: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What of the extracted structures decides about duplicates and splits.

    Attributes:
        structure_id: Hash of each structure, (S,).
        geometry: Name of its geometry, see `name_geometries`, (S,).
        group: Hash of its group, (S,).
        official_split: The source's own split, -1 for none, (S,).
        num_atoms: Its number of atoms, (S,).
        energy: In eV, (S,).
        has_energy: Whether there is one, (S,).
        num_labels: How many labels it has, (S,).
    """

    structure_id: UInt64Array
    geometry: UInt64Array
    group: UInt64Array
    official_split: SplitArray
    num_atoms: npt.NDArray[np.int32]
    energy: npt.NDArray[np.float64]
    has_energy: BoolArray
    num_labels: npt.NDArray[np.int8]

    @classmethod
    def of(cls, extracted: ExtractedSource, has: dict[str, BoolArray]) -> Self:
        """Read the rows of a source.

        Args:
            extracted: The source.
            has: Which structures have each label, (S,).

        Raises:
            ValueError: If a part has no fingerprints.
        """
        for path in extracted.part_paths:
            with BpReader(path) as reader:
                if "fingerprint" not in reader.header.fields:
                    raise ValueError(
                        f"{path} holds no fingerprints, so an earlier version wrote it; run "
                        "mtlpar extract again"
                    )
        columns = extracted.columns(
            "fingerprint", "structure_id", "group", "official_split", "num_atoms", "energy"
        )
        return cls(
            geometry=name_geometries(columns.pop("fingerprint"), columns["structure_id"]),
            **columns,
            has_energy=has["energy"],
            num_labels=np.sum(list(has.values()), axis=0, dtype=np.int8),
        )

    def take(self, chosen: npt.NDArray[np.intp]) -> Self:
        """Return the rows at ``chosen``."""
        columns: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        return type(self)(**{name: column[chosen] for name, column in columns.items()})


def find_duplicates(rows: Rows) -> dict[str, BoolArray]:
    """Mark duplicates to leave out, by reason.

    Of structures that are equal to the last bit one stays. Of those that are left, one of each
    geometry does, unless energies of its copies contradict each other: then they are perhaps no
    copies, and all stay.
    """
    exact = ~_firsts(rows, rows.structure_id)
    several = _of_several(rows, exact)
    few = rows.take(several)
    doubtful = np.isin(few.geometry, _contradictions(few, few.geometry))
    equivalent = np.zeros_like(exact)
    equivalent[several] = ~_firsts(few, few.geometry) & ~doubtful
    return {"duplicate": exact, "equivalent_duplicate": equivalent}


def count_contradictions(source: str, rows: Rows) -> dict[str, int]:
    """Structures, and geometries, that a source holds several times with different energies."""
    exact = ~_firsts(rows, rows.structure_id)
    few = rows.take(_of_several(rows, exact))
    identical = len(_contradictions(rows, rows.structure_id))
    equivalent = len(_contradictions(few, few.geometry))
    if identical:
        logger.warning(
            "%s: copies of %s have energies more than %g eV/atom apart; the lowest of a group is "
            "kept",
            source,
            counted(identical, "structure"),
            SAME_EV_PER_ATOM,
        )
    if equivalent:
        logger.warning(
            "%s: %s several times, moved, rotated or reordered, with energies more than %g "
            "eV/atom apart; all are kept, each geometry in one split",
            source,
            counted(equivalent, "geometry"),
            SAME_EV_PER_ATOM,
        )
    return {"contradicting_duplicates": identical, "contradicting_equivalents": equivalent}


def join_groups(
    group: UInt64Array, geometry: UInt64Array, official_split: SplitArray
) -> UInt64Array:
    """Names of what must stay in one split: groups, joined where they share a geometry.

    Groups of different official splits are not joined: those are the source's to decide.

    Args:
        group: Hash of each structure's group, (S,).
        geometry: Name of its geometry, (S,).
        official_split: The source's own split, -1 for none, (S,).

    Returns:
        The smallest hash of the groups that are joined, (S,).
    """
    shared = repeated(geometry)
    shared = shared[np.lexsort((official_split[shared], geometry[shared]))]
    first, second = shared[:-1], shared[1:]
    linked = (geometry[first] == geometry[second]) & (
        official_split[first] == official_split[second]
    )
    if not linked.any():
        return group
    ends = np.concatenate([group[first[linked]], group[second[linked]]])
    # Hashes in ascending order, so the first of a part is the smallest.
    groups, end = np.unique(ends, return_inverse=True)
    joined = groups[components(len(groups), *np.split(end, 2))]
    place = np.minimum(np.searchsorted(groups, group), len(groups) - 1)
    return np.where(groups[place] == group, joined[place], group)


def _of_several(rows: Rows, exact: BoolArray) -> npt.NDArray[np.intp]:
    """Positions of structures whose geometry others have too, exact duplicates left out."""
    several = repeated(rows.geometry)
    single = several[~exact[several]]
    return single[repeated(rows.geometry[single])]


def _firsts(rows: Rows, name: UInt64Array) -> BoolArray:
    return first_of_duplicates(name, rows.structure_id, rows.group, rows.energy, rows.num_labels)


def _contradictions(rows: Rows, name: UInt64Array) -> UInt64Array:
    several = repeated(name)
    known = several[rows.has_energy[several]]
    return find_contradictions(
        name[known],
        rows.energy[known] / rows.num_atoms[known],
        limit_ev_per_atom=SAME_EV_PER_ATOM,
    )
