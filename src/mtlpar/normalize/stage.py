"""Runs the normalize stage for one source."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np

from mtlpar.core.fields import SPLITS
from mtlpar.core.files import atomic_path, write_json
from mtlpar.core.ledger import Ledger
from mtlpar.core.paths import Workspace
from mtlpar.normalize.fit import ReferenceFit, fit_references
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.normalize.split import DROPPED, TRAIN, SplitArray, assign_splits, first_of_duplicates
from mtlpar.store.extracted import ExtractedSource

logger = logging.getLogger(__name__)

_BLOCK_STRUCTURES = 65_536


def run(source: str, *, workspace: Workspace, settings: NormalizeSettings, seed: int) -> None:
    """Split a source, drop exact duplicates, fit references on train, and close the ledger.

    Writes ``splits.npy`` (destination of every extracted structure), ``references.json`` and the
    ledger.

    Args:
        source: Name of the source.
        workspace: Paths of all products.
        settings: Fractions and use of official splits.
        seed: The run's seed.

    Raises:
        ValueError: If the source has too few groups, or no training structures.
    """
    extracted = ExtractedSource(workspace, source)
    group, structure_id = extracted.column("group"), extracted.column("structure_id")
    official = extracted.column("official_split")
    if not settings.official_splits:
        official = np.full_like(official, -1)
    split = assign_splits(
        group,
        official,
        val_fraction=settings.val_fraction,
        test_fraction=settings.test_fraction,
        seed=seed,
    )
    dropped = Counter(extracted.manifest["dropped"])
    duplicate = ~first_of_duplicates(structure_id, group)
    _drop(split, duplicate, "duplicate", dropped)
    fit = fit_references(
        batch for _, batch in extracted.iterate(split == TRAIN, block_structures=_BLOCK_STRUCTURES)
    )
    _drop(split, _without_reference(extracted, split, fit), "element_not_in_train", dropped)
    statistics = _statistics(extracted, split, fit)

    with atomic_path(workspace.splits(source)) as temporary, temporary.open("wb") as stream:
        np.save(stream, split)
    write_json(
        workspace.references(source),
        {
            "source": source,
            "level_of_theory": extracted.manifest["level_of_theory"],
            "energies_ev": dict(fit.references.energies_ev),
            "fitted_on": "train",
            "num_structures": fit.num_structures,
            "rank": fit.rank,
            "num_elements": len(fit.references.energies_ev),
            "train_statistics": statistics,
        },
    )
    counts = {name: int((split == index).sum()) for index, name in enumerate(SPLITS)}
    ledger = Ledger(rows=extracted.manifest["rows"], splits=counts, dropped=dropped)
    ledger.write(workspace.ledger(source))
    logger.info(
        "%s: %d rows = %s, dropped %d; %d elements, spread of the target %.3f eV/atom",
        source,
        ledger.rows,
        ", ".join(f"{count} {name}" for name, count in counts.items()),
        dropped.total(),
        len(fit.references.energies_ev),
        statistics["energy_rms_ev_per_atom"],
    )


def _drop(
    split: SplitArray,
    mask: np.ndarray[tuple[int], np.dtype[np.bool_]],
    reason: str,
    dropped: Counter[str],
) -> None:
    mask = mask & (split != DROPPED)
    if mask.any():
        dropped[reason] += int(mask.sum())
        split[mask] = DROPPED


def _without_reference(
    extracted: ExtractedSource, split: SplitArray, fit: ReferenceFit
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    mask = np.zeros(len(split), dtype=bool)
    others = (split != TRAIN) & (split != DROPPED)
    for positions, batch in extracted.iterate(others, block_structures=_BLOCK_STRUCTURES):
        mask[positions] = ~fit.references.defined_mask(batch)
    return mask


def _statistics(
    extracted: ExtractedSource, split: SplitArray, fit: ReferenceFit
) -> dict[str, float]:
    """Size of the targets on train: what predicting zero would cost."""
    energy_abs = energy_square = force_abs = force_square = 0.0
    structures = atoms = 0
    for _, batch in extracted.iterate(split == TRAIN, block_structures=_BLOCK_STRUCTURES):
        target = fit.references.to_target(batch)
        forces = batch.forces.astype(np.float64)
        energy_abs += float(np.abs(target).sum())
        energy_square += float((target**2).sum())
        force_abs += float(np.abs(forces).sum())
        force_square += float((forces**2).sum())
        structures += len(batch)
        atoms += batch.total_atoms
    return {
        "energy_mean_abs_ev_per_atom": energy_abs / structures,
        "energy_rms_ev_per_atom": (energy_square / structures) ** 0.5,
        "force_mean_abs_ev_per_angstrom": force_abs / (3 * atoms),
        "force_rms_ev_per_angstrom": (force_square / (3 * atoms)) ** 0.5,
        "mean_atoms": atoms / structures,
    }
