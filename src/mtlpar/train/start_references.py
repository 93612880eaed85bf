"""Reference energies of a model that starts from another one, fitted to what that one leaves.

A trained branch predicts most of a new source's energies already; what it cannot know is the
offset of the new level of theory. Let r be label minus prediction per atom and x_Z the share of
element Z in a structure. The new reference of an element is the old one plus mu + d_Z, where

    min  sum_i (r_i - mu - sum_Z x_iZ d_Z)^2 + lambda sum_Z d_Z^2

with lambda chosen by leave-one-out errors. The common offset mu is free, since levels of theory can
be hundreds of eV apart; what the compositions do not determine, and the difference of elements that
always come in the same ratio, stays as in the branch that the model started from.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from ase.data import chemical_symbols

from mtlpar.core.composition import compositions
from mtlpar.core.error_names import ERROR_UNITS, MAE_NAMES
from mtlpar.core.hashing import json_digest
from mtlpar.core.metrics import ErrorSums
from mtlpar.core.records import (
    Digest,
    Record,
    Symbol,
    check_expected,
    read_record,
    write_record,
)
from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch
from mtlpar.model.predict import predict_batches
from mtlpar.model.saved import SavedModel
from mtlpar.model.start import start_branch
from mtlpar.store.pack import Pack
from mtlpar.train.recipe import Recipe

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

_STRUCTURES: Final = 2048
"""Structures that are looked at; packs are in random order."""
_BATCH_ATOMS: Final = 4096
# A start of little training or of other materials is a little worse than the mean, and its encoder
# is worth having. Labels in Hartree, or weights of something else, are off by more.
_FAR_BEHIND: Final = 2.0
# Where forces of two levels of theory have one direction they have nearly one length too. Hartree
# in place of eV makes it 27 times as long, kcal/mol 23, kJ/mol 96.
_SAME_DIRECTION: Final = 0.8
_FOREIGN_UNIT: Final = 5.0
# Relative to the largest singular value squared.
_STRENGTHS: Final = np.logspace(-12, 2, 57)


@dataclass(frozen=True, kw_only=True)
class StartFit:
    """Reference energies of a source before the first step, and how good the start is.

    Attributes:
        references: The energies.
        errors: Mean absolute errors of energy and forces of the start, on train.
        sizes: Those of predicting zero: a model of the composition alone.
        force_ratio: See `ratio_of_forces`.
    """

    references: References
    errors: Mapping[str, float]
    sizes: Mapping[str, float]
    force_ratio: float | None

    @property
    def text(self) -> str:
        """Errors and sizes by label, with units."""
        return ", ".join(
            f"{label} {self.errors[name]:.4f} {ERROR_UNITS[label]} (predicting the mean: "
            f"{self.sizes[name]:.4f})"
            for label, name in MAE_NAMES.items()
            if name in self.errors
        )

    @property
    def doubt(self) -> str | None:
        """What the forces say against a unit or the sign of the labels; None if nothing."""
        ratio = self.force_ratio
        if ratio is None or 1 / _FOREIGN_UNIT < ratio < _FOREIGN_UNIT:
            return None
        if ratio < 0:
            return "forces point against those that the start predicts: perhaps they are gradients"
        return (
            f"forces are {ratio:.3g} times as large as those that the start predicts, in the same "
            "directions: check energy_unit and length_unit (1 Hartree is 27.2 eV, 1 eV is 23.1 "
            "kcal/mol or 96.5 kJ/mol)"
        )

    @property
    def is_far_behind(self) -> bool:
        """Whether the start is far worse than predicting zero in all labels."""
        return bool(self.errors) and len(self.labels_behind(_FAR_BEHIND)) == len(self.errors)

    @property
    def doubts(self) -> list[str]:
        """What speaks against labels or start, a sentence each."""
        found = [self.doubt] if self.doubt else []
        if behind := self.labels_behind():
            labels = " and ".join(behind)
            found.append(
                f"the start predicts the {labels} worse than the mean does, before training"
            )
        return found

    def labels_behind(self, factor: float = 1.0) -> list[str]:
        """Labels that the start predicts worse than zero does, by more than a factor."""
        return [
            label
            for label, name in MAE_NAMES.items()
            if name in self.errors and self.errors[name] > factor * self.sizes[name]
        ]


class _KeptReferences(Record):
    """References in eV by source and symbol, as a training found them at its start."""

    energies_ev: dict[str, dict[Symbol, float]]
    digest: Digest


def references_of(recipe: Recipe, start: SavedModel, folder: Path) -> dict[str, References]:
    """References of all sources of a model that starts from another one; one rank computes them.

    A source whose data the start has learned keeps the references that it has there, and one whose
    branch starts from random weights those of its pack. All others are fitted.

    Args:
        recipe: What is trained.
        start: What it starts from.
        folder: Where they are kept, so that a training that goes on has the very same.

    Raises:
        ValueError: If the start is far worse than predicting the mean in all labels of a source.
    """
    path = folder / "references.json"
    if not path.exists():
        found = {source: _references_of(recipe, start, source) for source in recipe.packs}
        energies = {source: dict(one.energies_ev) for source, one in found.items()}
        kept = _KeptReferences(energies_ev=energies, digest=json_digest(energies))
        write_record(path, kept)
    return _read_kept(path, recipe)


def _read_kept(path: Path, recipe: Recipe) -> dict[str, References]:
    advice = "remove that file and rerun: they are fitted again"
    kept = read_record(path, _KeptReferences)
    expected = {"digest": json_digest(kept.energies_ev)}
    check_expected(kept, expected, where=str(path), advice=advice)
    if kept.energies_ev.keys() != recipe.packs.keys():
        raise ValueError(
            f"{path} has references of {', '.join(kept.energies_ev)}, expected those of "
            f"{', '.join(recipe.packs)}; {advice}"
        )
    return {source: References(energies) for source, energies in kept.energies_ev.items()}


def _references_of(recipe: Recipe, start: SavedModel, source: str) -> References:
    assert recipe.start is not None
    pack = recipe.packs[source]
    branch = start_branch(recipe.branch_of[source], start, recipe.start.new_branches)
    if branch is None:
        logger.info(
            "%s: branch %s starts from random weights: the start has no branch of that name, and "
            "start_from.branches names none of %s",
            source,
            recipe.branch_of[source],
            ", ".join(start.branches),
        )
        return pack.header.references
    if start.training.get("data", {}).get(source) == recipe.data[source]:
        return start.references[source]
    fit = fit_references(pack, start, branch)
    logger.info("%s starts from branch %s: mean errors on train %s", source, branch, fit.text)
    for line in fit.doubts:
        logger.warning("%s: %s", source, line)
    refuse_far_start(fit, source, start, branch, path=recipe.start.path)
    return fit.references


def refuse_far_start(
    fit: StartFit, source: str, start: SavedModel, branch: str, *, path: Path
) -> None:
    """Refuse to train from a branch that knows nothing of a source, or is told it in wrong units.

    Args:
        fit: How well the branch predicts the source.
        source: The source.
        start: The trained model.
        branch: One of its branches.
        path: File of the model.

    Raises:
        ValueError: If the start is far worse than predicting the mean in all labels.
    """
    if fit.is_far_behind:
        raise ValueError(
            f"{source}: branch {branch} of {path} is a far worse start than "
            f"predicting the mean: {fit.text}. Check its labels and their units, "
            f"start from another of its branches ({_others(start, branch)}), or from random "
            "weights: under a name that no branch of it has, with start_from.branches empty"
        )


def _others(start: SavedModel, branch: str) -> str:
    return ", ".join(name for name in start.branches if name != branch) or "there is no other"


def fit_references(pack: Pack, start: SavedModel, branch: str) -> StartFit:
    """References with which a trained branch predicts a source best; see the module's formula.

    Args:
        pack: Training pack of the source.
        start: The trained model.
        branch: One of its branches.

    Raises:
        ValueError: If the pack is damaged.
    """
    return fit_to(pack.first(_STRUCTURES), pack.header.references, start, branch)


def fit_to(structures: StructureBatch, own: References, start: SavedModel, branch: str) -> StartFit:
    """References with which a trained branch predicts some structures best.

    Args:
        structures: S structures with labels.
        own: References of their source: errors of predicting the mean are those relative to them,
            and elements that the branch does not know start from them.
        start: The trained model.
        branch: One of its branches.
    """
    energy, forces = _predict(start, structures, branch)
    seen = _references_of_branch(start, branch)
    old = {**own.energies_ev, **seen}
    rows = np.flatnonzero(structures.has("energy"))
    base = References(old)
    references = base
    if len(rows):
        labelled = structures.take(rows)
        found = compositions(labelled.num_atoms, labelled.atomic_numbers)
        shares = found.counts[found.member] / labelled.num_atoms[:, None]
        left = base.to_target(labelled) - energy[rows]
        shift = _shift_by_element(shares, left)
        learned = {
            chemical_symbols[z]: old[chemical_symbols[z]] + shift[z]
            for z in np.flatnonzero(shares.any(axis=0))
        }
        references = References({**old, **learned})
    sums, zero = ErrorSums(), ErrorSums()
    sums.add(
        structures,
        energy_error_ev_per_atom=energy - references.to_target(structures),
        forces=forces,
        stress=None,
    )
    zero.add(
        structures,
        energy_error_ev_per_atom=-own.to_target(structures),
        forces=np.zeros_like(forces),
        stress=None,
    )
    return StartFit(
        references=references,
        errors=_means(sums),
        sizes=_means(zero),
        # Of elements that it never saw a branch predicts anything.
        force_ratio=(
            ratio_of_forces(structures, forces) if own.energies_ev.keys() <= seen.keys() else None
        ),
    )


def ratio_of_forces(structures: StructureBatch, forces: FloatArray) -> float | None:
    """How many times as long forces of labels are as predicted ones, if their directions agree.

    The median over atoms: a few that are pressed together have most of the sum of squares.

    Args:
        structures: S structures with labels and A atoms.
        forces: Predicted forces in eV/Å, (A, 3).

    Returns:
        The ratio, negative where directions are opposite; None where they do not agree, or there is
        nothing to compare.
    """
    labels = structures.forces.astype(np.float64)
    lengths, predicted = (np.linalg.norm(one, axis=1) for one in (labels, forces))
    of_labelled = np.repeat(structures.has("forces"), structures.num_atoms)
    atoms = np.flatnonzero(of_labelled & (lengths > 0) & (predicted > 0))
    if not len(atoms):
        return None
    products = (labels[atoms] * forces[atoms]).sum(axis=1)
    cosine = float(np.median(products / (lengths[atoms] * predicted[atoms])))
    if abs(cosine) < _SAME_DIRECTION:
        return None
    return float(np.copysign(np.median(lengths[atoms] / predicted[atoms]), cosine))


def _shift_by_element(shares: FloatArray, left: FloatArray) -> FloatArray:
    """Mu + d_Z of the module's formula, (119,)."""
    centre, offset = shares.mean(axis=0), left.mean()
    u, size, v = np.linalg.svd(shares - centre, full_matrices=False)
    moved = u.T @ (left - offset)
    if not size.size or size[0] < 1e-9:
        return np.full(shares.shape[1], offset)
    best, error_of_best = np.inf, np.inf
    for strength in _STRENGTHS[::-1] * size[0] ** 2:
        shrunk = size**2 / (size**2 + strength)
        residual = left - offset - u @ (shrunk * moved)
        leverage = 1 / len(left) + (u**2) @ shrunk
        error = float(np.mean((residual / np.maximum(1 - leverage, 1e-9)) ** 2))
        if error < error_of_best:
            best, error_of_best = strength, error
    slopes = v.T @ (size / (size**2 + best) * moved)
    return np.asarray(offset - centre @ slopes + slopes)


def _predict(
    start: SavedModel, structures: StructureBatch, branch: str
) -> tuple[FloatArray, FloatArray]:
    """Energies per atom without references in eV/atom, (S,), and forces in eV/Å, (A, 3)."""
    parts = list(
        predict_batches(
            start.network,
            structures,
            branch=branch,
            graph=start.settings.graph,
            batch_atoms=_BATCH_ATOMS,
        )
    )
    return (
        np.concatenate([part.energy_per_atom for part in parts]),
        np.concatenate([part.forces for part in parts]),
    )


def _references_of_branch(start: SavedModel, branch: str) -> dict[str, float]:
    """Reference energies of the sources that fed a branch; the first one that has an element."""
    found: dict[str, float] = {}
    for source in reversed(start.branches[branch]):
        found |= start.references[source].energies_ev
    return found


def _means(sums: ErrorSums) -> dict[str, float]:
    named = sums.as_dict()
    return {name: named[name] for name in MAE_NAMES.values() if name in named}
