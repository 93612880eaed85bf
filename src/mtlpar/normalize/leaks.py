"""What the splits of all sources share: geometries and compositions, across sources too.

Within a source nothing may be in two splits; the normalize stage sees to that. Across sources a
geometry may be in train here and in test there, with labels of another level of theory: that is no
error, but a shared encoder has seen it, and readers of a table should know how often.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.composition import CountArray, compositions, formula, reduced_where
from mtlpar.core.fields import SPLITS
from mtlpar.core.hashing import UInt64Array
from mtlpar.core.paths import Workspace
from mtlpar.core.processes import Workers
from mtlpar.core.products import LeaksRecord
from mtlpar.core.records import write_content
from mtlpar.core.wording import counted
from mtlpar.normalize.copies import UInt32Array, name_geometries
from mtlpar.normalize.split import DROPPED, TEST, TRAIN, SplitArray
from mtlpar.store.bp import BpReader
from mtlpar.store.extracted import ExtractedSource

logger = logging.getLogger(__name__)
_LISTED: Final = 10
_HINT: Final = "use fewer jobs, or lower extract.part_structures"


@dataclass(frozen=True, slots=True)
class KeysTask:
    """A part and the splits of its structures."""

    path: Path
    split: SplitArray


@dataclass(frozen=True, slots=True)
class Keys:
    """What identifies the kept structures of a part or of a source.

    Attributes:
        split: Split of each structure, (S,).
        structure_id: Its hash, (S,).
        fingerprint: Its fingerprint, (S, 5).
        composition: Hashes of the distinct compositions, in formula units for crystals, (U,).
        elements: Atoms by atomic number of each composition, (U, 119).
        structures: Structures of each composition by split, (U, 3).
    """

    split: SplitArray
    structure_id: UInt64Array
    fingerprint: UInt32Array
    composition: UInt64Array
    elements: npt.NDArray[np.uint16]
    structures: CountArray


def run(sources: Sequence[str], *, workspace: Workspace, jobs: int = 1) -> None:
    """Compare the test split of each source with the train splits of all, and write the result.

    Args:
        sources: Names of the sources, all normalized.
        workspace: Paths of all products.
        jobs: Processes that read parts at the same time.

    Raises:
        ValueError: If a source is not normalized.
    """
    with Workers(jobs, hint=_HINT) as workers:
        keys = {source: _keys_of(source, workspace, workers) for source in sources}
    names = _names_of(keys)
    pairs = [
        {
            "train": train,
            "test": test,
            **_same_geometry(names[train], names[test]),
            **_same_composition(keys[train], keys[test]),
        }
        for test in sources
        for train in sources
    ]
    write_content(workspace.leaks, LeaksRecord, {"sources": list(sources), "pairs": pairs})
    _report(pairs, workspace.leaks)


def _report(pairs: list[dict[str, Any]], path: Path) -> None:
    for pair in pairs:
        if pair["same_geometry"]:
            logger.warning(
                "%s test: %d of %s with exactly the geometry of one in %s train",
                pair["test"],
                pair["same_geometry"],
                counted(pair["test_structures"], "structure"),
                pair["train"],
            )
        if pair["equivalent_geometry"]:
            logger.warning(
                "%s test: %d of %s with the geometry of one in %s train, moved, rotated, "
                "reordered or wrapped",
                pair["test"],
                pair["equivalent_geometry"],
                counted(pair["test_structures"], "structure"),
                pair["train"],
            )
    logger.info(
        "%s of a train and a test split: %d with common geometries, %d with common geometries that "
        "are written differently, %d with common compositions; see %s",
        counted(len(pairs), "pair"),
        sum(pair["same_geometry"] > 0 for pair in pairs),
        sum(pair["equivalent_geometry"] > 0 for pair in pairs),
        sum(pair["compositions"] > 0 for pair in pairs),
        path,
    )


def part_keys(task: KeysTask) -> Keys:
    """Hashes and compositions of the kept structures of a part."""
    kept = task.split != DROPPED
    split = task.split[kept]
    with BpReader(task.path) as reader:
        ids = reader.read_column("structure_id")[kept]
        fingerprint = reader.read_column("fingerprint")[kept]
        num_atoms = reader.read_column("num_atoms")
        numbers = reader.read_column("atomic_numbers")
        crystals = reader.read_column("pbc")[kept].any(axis=1)
    found = reduced_where(
        compositions(num_atoms[kept], numbers[np.repeat(kept, num_atoms)]), crystals
    )
    places = found.member * len(SPLITS) + split
    structures = np.bincount(places, minlength=len(found.key) * len(SPLITS))
    return Keys(
        split,
        ids,
        fingerprint,
        found.key,
        found.counts.astype(np.uint16),
        structures.reshape(-1, len(SPLITS)),
    )


def _keys_of(source: str, workspace: Workspace, workers: Workers) -> Keys:
    extracted = ExtractedSource(workspace, source)
    extracted.check_parts()
    tasks = [KeysTask(*cut) for cut in extracted.cut(extracted.splits())]
    parts = list(workers.map(part_keys, tasks))
    keys = np.concatenate([part.composition for part in parts])
    composition, first, member = np.unique(keys, return_index=True, return_inverse=True)
    structures = np.zeros((len(composition), len(SPLITS)), np.int64)
    np.add.at(structures, member, np.concatenate([part.structures for part in parts]))
    return Keys(
        np.concatenate([part.split for part in parts]),
        np.concatenate([part.structure_id for part in parts]),
        np.concatenate([part.fingerprint for part in parts]),
        composition,
        np.concatenate([part.elements for part in parts])[first],
        structures,
    )


@dataclass(frozen=True, slots=True)
class Names:
    """Names of the structures of a source in train and test.

    Attributes:
        train_ids: Hashes of the training structures, ascending.
        test_ids: Hashes of the test structures.
        train_geometries: Names of the training structures' geometries, ascending.
        test_geometries: Names of the test structures' geometries.
    """

    train_ids: UInt64Array
    test_ids: UInt64Array
    train_geometries: UInt64Array
    test_geometries: UInt64Array


def _names_of(keys: dict[str, Keys]) -> dict[str, Names]:
    """Names of all structures by source; geometries of all sources are named together."""
    geometry = name_geometries(
        np.concatenate([of.fingerprint for of in keys.values()]),
        np.concatenate([of.structure_id for of in keys.values()]),
    )
    ends = np.cumsum([len(of.split) for of in keys.values()])
    return {
        source: Names(
            np.sort(of.structure_id[of.split == TRAIN]),
            of.structure_id[of.split == TEST],
            np.sort(names[of.split == TRAIN]),
            names[of.split == TEST],
        )
        for (source, of), names in zip(keys.items(), np.split(geometry, ends[:-1]), strict=True)
    }


def _same_geometry(train: Names, test: Names) -> dict[str, int]:
    """Test structures of one source whose geometry is in the train split of one."""
    exact = _are_in(train.train_ids, test.test_ids)
    equivalent = _are_in(train.train_geometries, test.test_geometries) & ~exact
    return {
        "test_structures": len(test.test_ids),
        "same_geometry": int(exact.sum()),
        "equivalent_geometry": int(equivalent.sum()),
    }


def _same_composition(train: Keys, test: Keys) -> dict[str, Any]:
    """Compositions of the test split of one source that are in the train split of one."""
    _, in_train, in_test = np.intersect1d(
        train.composition, test.composition, assume_unique=True, return_indices=True
    )
    trained = train.structures[in_train, TRAIN]
    tested = test.structures[in_test, TEST]
    shared = np.flatnonzero((trained > 0) & (tested > 0))
    # The most frequent first; equal ones by hash, so that nothing depends on an order of files.
    ranked = shared[np.lexsort((test.composition[in_test[shared]], -tested[shared]))]
    return {
        "same_composition": int(tested[shared].sum()),
        "compositions": len(shared),
        "most_frequent": [
            {
                "formula": formula(test.elements[in_test[index]].astype(np.int64)),
                "train": int(trained[index]),
                "test": int(tested[index]),
            }
            for index in ranked[:_LISTED]
        ],
    }


def _are_in(ascending: UInt64Array, values: UInt64Array) -> npt.NDArray[np.bool_]:
    """Which of the values are in a sorted array, (V,)."""
    if len(ascending) == 0:
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.asarray(ascending[places] == values)
