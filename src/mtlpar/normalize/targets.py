"""What is learned of energies: what is left of them without references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from ase.data import chemical_symbols

from mtlpar.core.hashing import UInt64Array
from mtlpar.core.processes import Workers
from mtlpar.core.references import References
from mtlpar.normalize.books import Books
from mtlpar.normalize.fit import Moments, ReferenceFit, solve_references
from mtlpar.normalize.given import require_elements
from mtlpar.normalize.parts import (
    MomentsTask,
    ResidualsTask,
    TrainSums,
    part_moments,
    part_residuals,
)
from mtlpar.normalize.split import TRAIN, SplitArray
from mtlpar.store.bp import BpReader
from mtlpar.store.extracted import ExtractedSource

_HINT: Final = "use fewer jobs, or lower extract.part_structures"


@dataclass(frozen=True, slots=True)
class Targets:
    """What is left of all S structures once references are taken off.

    Attributes:
        energy_ev_per_atom: Energies per atom less references in eV, (S,).
        composition: Hash of the composition of each structure, (S,).
        undefined: Structures of elements without references, (S,).
        undefined_elements: Their atomic numbers.
        train: Sums over the training structures.
    """

    energy_ev_per_atom: npt.NDArray[np.float64]
    composition: UInt64Array
    undefined: npt.NDArray[np.bool_]
    undefined_elements: frozenset[int]
    train: TrainSums


def without_references(
    extracted: ExtractedSource,
    books: Books,
    given: References | None,
    has_energy: npt.NDArray[np.bool_],
    jobs: int,
) -> tuple[ReferenceFit, Targets]:
    """Take references off all energies, and drop rows of elements that have none.

    Args:
        extracted: The S structures.
        books: Their splits.
        given: References that the user gives.
        has_energy: Which structures have an energy, (S,).
        jobs: Processes that read parts at the same time.

    Raises:
        ValueError: If references that are given lack an element.
    """
    with Workers(jobs, hint=_HINT) as workers:
        fit = _take_references(extracted, books.split, given, has_energy, workers)
        targets = _take_off(extracted, books.split, fit.references, workers)
    if fit.rank is None:
        require_elements(extracted.manifest.source, fit, targets.undefined_elements)
    books.drop(targets.undefined, "element_not_in_train")
    return fit, targets


def _take_references(
    extracted: ExtractedSource,
    split: SplitArray,
    given: References | None,
    has_energy: npt.NDArray[np.bool_],
    workers: Workers,
) -> ReferenceFit:
    """The references that the user gives, those of isolated atoms, or a fit to train."""
    if given is not None:
        return ReferenceFit(references=given)
    if isolated := extracted.manifest.checks.labels.isolated_atoms_ev:
        return ReferenceFit(references=References(isolated), taken_from="isolated atoms")
    if not has_energy.any():
        # Nothing to take references off: energies of this source are known up to a constant.
        symbols = _elements_in_train(extracted, split)
        return ReferenceFit(
            references=References(dict.fromkeys(symbols, 0.0)), taken_from="no energies"
        )
    tasks = [MomentsTask(path, part) for path, part in extracted.cut(split)]
    moments = sum(workers.map(part_moments, tasks), Moments.none())
    return solve_references(moments)


def _elements_in_train(extracted: ExtractedSource, split: SplitArray) -> list[str]:
    """Chemical symbols of the elements of the training structures."""
    found = np.zeros(len(chemical_symbols), np.bool_)
    for path, part in extracted.cut(split):
        with BpReader(path) as reader:
            in_train = np.repeat(part == TRAIN, reader.read_column("num_atoms"))
            found[reader.read_column("atomic_numbers")[in_train]] = True
    return [chemical_symbols[number] for number in np.flatnonzero(found)]


def _take_off(
    extracted: ExtractedSource, split: SplitArray, references: References, workers: Workers
) -> Targets:
    table = references.table()
    tasks = [ResidualsTask(path, part, table) for path, part in extracted.cut(split)]
    parts = list(workers.map(part_residuals, tasks))
    return Targets(
        np.concatenate([part.target_ev_per_atom for part in parts]),
        np.concatenate([part.composition for part in parts]),
        np.concatenate([part.undefined for part in parts]),
        frozenset[int]().union(*(part.undefined_elements for part in parts)),
        sum((part.train for part in parts), TrainSums.none()),
    )
