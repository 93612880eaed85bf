"""Runs the normalize stage for one source."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from ase.data import chemical_symbols

from mtlpar.core.fields import LABELS
from mtlpar.core.files import remove, remove_leftovers, remove_leftovers_of
from mtlpar.core.hashing import UInt64Array
from mtlpar.core.ledger import Ledger, SplitBy
from mtlpar.core.paths import Workspace
from mtlpar.core.processes import Workers
from mtlpar.core.products import ChecksRecord, ExtractedManifest, ReferencesRecord
from mtlpar.core.records import write_content
from mtlpar.core.references import References
from mtlpar.normalize.books import Books
from mtlpar.normalize.duplicates import Rows, count_contradictions, find_duplicates, join_groups
from mtlpar.normalize.empty import require_every_split
from mtlpar.normalize.fit import Moments, ReferenceFit, solve_references
from mtlpar.normalize.given import given_references, require_elements
from mtlpar.normalize.parts import (
    MomentsTask,
    ResidualsTask,
    TrainSums,
    part_moments,
    part_residuals,
)
from mtlpar.normalize.residuals import (
    IMPLAUSIBLE_SPREAD_EV_PER_ATOM,
    Spread,
    above_lowest,
    describe_residuals,
    find_outliers,
    find_two_levels,
    measure_spread,
)
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.normalize.split import (
    TRAIN,
    SplitArray,
    assign_splits,
    count_overlap,
    keep_together,
    split_blocks,
)
from mtlpar.store.bp import BpReader
from mtlpar.store.extracted import ExtractedSource

logger = logging.getLogger(__name__)

_HINT: Final = "use fewer jobs, or lower extract.part_structures"
# What may lie in several splits, by what was dealt to them.
_MAY_LEAK: Final[dict[SplitBy, set[str]]] = {
    "groups": set(),
    "frames": {"groups"},
    "blocks": {"groups"},
    "given": {"groups", "structures", "geometries"},
}


def run(
    source: str, *, workspace: Workspace, settings: NormalizeSettings, seed: int, jobs: int = 1
) -> None:
    """Split a source, drop duplicates, take references from train, and close the ledger.

    Writes ``splits.npz`` (destination of every extracted structure), ``references.json``, the
    checks and the ledger. None of them depends on the number of jobs or on the order of the files,
    except that the splits are in the order of the extracted structures.

    Args:
        source: Name of the source.
        workspace: Paths of all products.
        settings: How to split, and references that are given.
        seed: The run's seed.
        jobs: Processes that read parts at the same time.

    Raises:
        ValueError: If the source has too few groups, if a split is left without structures, if
            given references are wrong or incomplete, or if a group or a structure is in two splits.
    """
    extracted = ExtractedSource(workspace, source)
    extracted.check_parts()
    # Files of the user may be wrong: what is there goes once they are known not to be.
    given = given_references(source, settings)
    _remove_products(workspace, source)
    split_by: SplitBy = "given" if extracted.manifest.given_splits else settings.split_of(source)
    has = {label: extracted.column(f"{label}_mask") != 0 for label in LABELS}
    rows = Rows.of(extracted, has)
    books = _deal(extracted, rows, split_by, settings, seed)
    require_every_split(source, books.close(split_by, is_leaky=False, without={}), rows.group)
    fit, rest = _without_references(extracted, books, given, has["energy"], jobs)
    in_train = (books.split == TRAIN) & has["energy"]
    spread = measure_spread(rest.target[in_train])
    leaks = _check_leaks(source, books.split, rows, split_by)
    is_leaky = any(leaks.values())
    deviations = settings.outlier_deviations
    outliers = find_outliers(
        rest.target, books, rows.structure_id, spread=spread, deviations=deviations
    )
    checks = _checks(extracted.manifest, rows, split_by, leaks, outliers)
    references = {
        **_describe(extracted.manifest, fit, rest, in_train, spread),
        "split_by": split_by,
        "leaky": is_leaky,
        "train_digest": extracted.train_digest(books.split),
    }
    without = {label: ~rows for label, rows in has.items()}
    ledger = books.close(split_by, is_leaky=is_leaky, without=without)
    # Again: structures of elements that train has not are gone since.
    require_every_split(source, ledger, rows.group)
    extracted.write_splits(books.split)
    write_content(workspace.references(source), ReferencesRecord, references)
    write_content(workspace.checks(source), ChecksRecord, checks)
    ledger.write(workspace.ledger(source))
    _report(source, ledger, fit, spread, outliers)
    _warn_of_levels(source, rest.target[in_train], rest.composition[in_train], spread)


def _warn_of_levels(
    source: str, target: npt.NDArray[np.float64], composition: UInt64Array, spread: Spread
) -> None:
    """Warn where energies of train look like several levels of theory.

    Args:
        source: Name of the source.
        target: Energies per atom less references in eV, (S,).
        composition: Hash of the composition of each structure, (S,).
        spread: Centre and width of the targets.
    """
    advice = (
        f"perhaps two levels of theory in one source. Tell them apart with custom_sources.{source}"
        ".where, or"
    )
    energies = {
        "less references": target,
        "above the lowest of the same composition": above_lowest(target, composition),
    }
    for which, values in energies.items():
        if levels := find_two_levels(values):
            logger.warning(
                "%s: the energies of train %s fall into two groups %.3g eV/atom apart (%d and %d "
                "structures): %s leave it if the structures explain it",
                source,
                which,
                levels.distance_ev_per_atom,
                *levels.sizes,
                advice,
            )
            return
    if spread.deviation > IMPLAUSIBLE_SPREAD_EV_PER_ATOM:
        logger.warning(
            "%s: the energies of train less references spread by %.3g eV/atom (robust standard "
            "deviation), and those of one level by less than %g: %s correct the energies' unit, "
            "key or references",
            source,
            spread.deviation,
            IMPLAUSIBLE_SPREAD_EV_PER_ATOM,
            advice,
        )


def _remove_products(workspace: Workspace, source: str) -> None:
    """Remove what says that all is done, and what a killed run left behind."""
    remove(workspace.ledger(source))
    remove(workspace.splits(source))
    remove_leftovers(workspace.splits(source).parent)
    remove_leftovers_of([workspace.ledger(source), workspace.checks(source)])


def _checks(
    manifest: ExtractedManifest,
    rows: Rows,
    split_by: SplitBy,
    leaks: dict[str, int],
    outliers: dict[str, Any],
) -> dict[str, Any]:
    """Content of the checks, with what the extract stage checked of the source and its files."""
    return {
        "source": manifest.source,
        "split_by": split_by,
        **count_contradictions(manifest.source, rows),
        "in_several_splits": leaks,
        "energy_outliers": outliers,
        "ingest": manifest.checks.given(),
        "files": {file.name: file.checks.given() for file in manifest.files},
    }


def _deal(
    extracted: ExtractedSource,
    rows: Rows,
    split_by: SplitBy,
    settings: NormalizeSettings,
    seed: int,
) -> Books:
    """Drop duplicates, and deal the other rows to the splits."""
    duplicates = {} if split_by == "given" else find_duplicates(rows)
    kept = ~np.logical_or.reduce([np.zeros(len(rows.group), np.bool_), *duplicates.values()])
    split = np.full(len(kept), TRAIN, np.int8)
    split[kept] = _split(rows, kept, extracted.manifest.source, split_by, settings, seed)
    books = Books(extracted.manifest, split)
    for reason, mask in duplicates.items():
        books.drop(mask, reason)
    return books


def _split(
    rows: Rows,
    kept: npt.NDArray[np.bool_],
    source: str,
    split_by: SplitBy,
    settings: NormalizeSettings,
    seed: int,
) -> SplitArray:
    """Splits of the rows that are kept, in order."""
    fractions = {"val_fraction": settings.val_fraction, "test_fraction": settings.test_fraction}
    group, geometry = rows.group[kept], rows.geometry[kept]
    official = rows.official_split[kept]
    if split_by == "given":
        return official
    if split_by == "blocks":
        return keep_together(geometry, split_blocks(group, **fractions))
    frames = split_by == "frames"
    if frames or not settings.official_splits:
        official = np.full_like(official, -1)
    unit = geometry if frames else join_groups(group, geometry, official)
    try:
        return assign_splits(unit, official, **fractions, seed=seed)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _without_references(
    extracted: ExtractedSource,
    books: Books,
    given: References | None,
    has_energy: npt.NDArray[np.bool_],
    jobs: int,
) -> tuple[ReferenceFit, _Rest]:
    """Take references off all energies, and drop rows of elements that have none."""
    with Workers(jobs, hint=_HINT) as workers:
        fit = _take_references(extracted, books.split, given, has_energy, workers)
        rest = _take_off(extracted, books.split, fit.references, workers)
    if fit.rank is None:
        require_elements(extracted.manifest.source, fit, rest.undefined_elements)
    books.drop(rest.undefined, "element_not_in_train")
    return fit, rest


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


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is left of all structures once references are taken off; see `Residuals`."""

    target: npt.NDArray[np.float64]
    composition: UInt64Array
    undefined: npt.NDArray[np.bool_]
    undefined_elements: frozenset[int]
    train: TrainSums


def _take_off(
    extracted: ExtractedSource, split: SplitArray, references: References, workers: Workers
) -> _Rest:
    table = references.table()
    tasks = [ResidualsTask(path, part, table) for path, part in extracted.cut(split)]
    parts = list(workers.map(part_residuals, tasks))
    return _Rest(
        np.concatenate([part.target_ev_per_atom for part in parts]),
        np.concatenate([part.composition for part in parts]),
        np.concatenate([part.undefined for part in parts]),
        frozenset[int]().union(*(part.undefined_elements for part in parts)),
        sum((part.train for part in parts), TrainSums.none()),
    )


def _check_leaks(
    source: str,
    split: SplitArray,
    rows: Rows,
    split_by: SplitBy,
) -> dict[str, int]:
    """Look at the finished splits, whatever made them.

    Returns:
        How many groups, structures, and geometries however they are written, lie in several splits.

    Raises:
        ValueError: If a structure or a geometry does, or a group that was to stay together. In
            given splits they are the user's, and only counted; so are geometries with
            contradicting energies in official ones.
    """
    leaks = {
        "groups": count_overlap(rows.group, split),
        "structures": count_overlap(rows.structure_id, split),
        "geometries": count_overlap(rows.geometry, split),
    }
    expected = _MAY_LEAK[split_by]
    if (rows.official_split >= 0).any():
        expected = expected | {"geometries"}
    if wrong := [
        f"{count} {name}" for name, count in leaks.items() if count > 0 and name not in expected
    ]:
        raise ValueError(
            f"{source}: {' and '.join(wrong)} lie in more than one split; the splits leak. This is "
            "a fault of mtlpar or of the official split of the source: report it, or set "
            "normalize.official_splits to false"
        )
    return leaks


def _describe(
    manifest: ExtractedManifest,
    fit: ReferenceFit,
    rest: _Rest,
    in_train: npt.NDArray[np.bool_],
    spread: Spread,
) -> dict[str, Any]:
    """Content of ``references.json``; labels outside train have no part in it."""
    return {
        "source": manifest.source,
        "level_of_theory": manifest.level_of_theory,
        "fitted_on": None if fit.rank is None else "train",
        "taken_from": fit.taken_from,
        "energies_ev": dict(fit.references.energies_ev),
        "standard_errors_ev": dict(fit.standard_errors_ev),
        "undetermined": list(fit.undetermined),
        "rank": fit.rank,
        "num_elements": len(fit.references.energies_ev),
        "num_structures": rest.train.structures,
        "train_statistics": rest.train.statistics(),
        "residuals": {
            "total_energy_rms_ev": fit.residual_rms_ev,
            **describe_residuals(rest.target[in_train], spread),
        },
    }


def _report(
    source: str,
    ledger: Ledger,
    fit: ReferenceFit,
    spread: Spread,
    outliers: dict[str, Any],
) -> None:
    logger.info(
        "%s: %d rows = %s, dropped %d; %d elements, robust spread of the target %.4f eV/atom",
        source,
        ledger.rows,
        ", ".join(f"{count} {name}" for name, count in ledger.splits.items()),
        ledger.dropped.total(),
        len(fit.references.energies_ev),
        spread.deviation,
    )
    if fit.taken_from == "isolated atoms":
        logger.info(
            "%s: reference energies are those of isolated atoms; with model.head.isolated_atoms: "
            "reference a model predicts them exactly",
            source,
        )
    if fit.taken_from == "no energies":
        logger.warning(
            "%s: no structure has an energy; models learn its energies from forces, up "
            "to a constant, with reference energies of zero",
            source,
        )
    if ledger.is_leaky:
        logger.warning(
            "%s: split by %s: frames of one group, or copies of a geometry, lie in several splits; "
            "test errors will look better than they are",
            source,
            ledger.split_by,
        )
    if fit.undetermined:
        logger.warning(
            "%s: the data do not determine the reference energies of %s (fixed ratios or charge "
            "balance): the solution of least norm is taken",
            source,
            ", ".join(fit.undetermined),
        )
    if outliers["count"]:
        logger.warning(
            "%s: %d energies are further than %.3g eV/atom from the median of train (kept)",
            source,
            outliers["count"],
            outliers["limit_ev_per_atom"],
        )
