"""Runs the normalize stage for one source."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.files import remove, remove_leftovers, remove_leftovers_of
from mtlpar.core.ledger import SplitBy
from mtlpar.core.paths import Workspace
from mtlpar.core.products import ChecksRecord, ExtractedManifest, ReferencesRecord
from mtlpar.core.records import write_content
from mtlpar.normalize.books import Books
from mtlpar.normalize.duplicates import Rows, count_contradictions, find_duplicates, join_groups
from mtlpar.normalize.empty import require_every_split
from mtlpar.normalize.fit import ReferenceFit
from mtlpar.normalize.given import given_references
from mtlpar.normalize.messages import report, warn_of_levels
from mtlpar.normalize.residuals import Spread, describe_residuals, find_outliers, measure_spread
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.normalize.split import (
    TRAIN,
    SplitArray,
    assign_splits,
    count_overlap,
    keep_together,
    split_blocks,
)
from mtlpar.normalize.targets import Targets, without_references
from mtlpar.store.extracted import ExtractedSource

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
    has = extracted.has_labels()
    rows = Rows.of(extracted, has)
    books = _deal(extracted, rows, split_by, settings, seed)
    require_every_split(source, books.close(split_by, is_leaky=False, without={}), rows.group)
    fit, targets = without_references(extracted, books, given, has["energy"], jobs)
    energy, in_train = targets.energy_ev_per_atom, (books.split == TRAIN) & has["energy"]
    spread = measure_spread(energy[in_train])
    leaks = _check_leaks(source, books.split, rows, split_by)
    is_leaky = any(leaks.values())
    deviations = settings.outlier_deviations
    outliers = find_outliers(energy, books, rows.structure_id, spread=spread, deviations=deviations)
    checks = _checks(extracted.manifest, rows, split_by, leaks, outliers)
    references = {
        **_describe(extracted.manifest, fit, targets, in_train, spread),
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
    report(source, ledger, fit, spread, outliers)
    warn_of_levels(source, energy[in_train], targets.composition[in_train], spread)


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
    targets: Targets,
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
        "num_structures": targets.train.structures,
        "train_statistics": targets.train.statistics(),
        "residuals": {
            "total_energy_rms_ev": fit.residual_rms_ev,
            **describe_residuals(targets.energy_ev_per_atom[in_train], spread),
        },
    }
