"""The trained model as it is saved: its own branches, and those kept of where it started."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final

import torch
from torch import nn

from mtlpar.core.references import References
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.saved import SavedModel
from mtlpar.model.start import only
from mtlpar.model.uncertainty import BranchUncertainty
from mtlpar.train.kept import drift_of, kept_branches
from mtlpar.train.progress import TrainingProgress
from mtlpar.train.recipe import Recipe

logger = logging.getLogger(__name__)

_NOT_SINCE_IT_MOVED: Final = (
    "the model has moved since it saw these data; train it on them too (replay), or predict with "
    "the model that it started from"
)
_NO_ENERGIES: Final = "its training or its validation data have no energies"


def finished_model(
    recipe: Recipe,
    trained: MultiTaskModel,
    references: Mapping[str, References],
    progress: TrainingProgress,
    uncertainty: Mapping[str, BranchUncertainty],
) -> SavedModel:
    """Put together what the model file holds.

    Args:
        recipe: What was trained.
        trained: Encoder and all branches of the recipe, with their final weights.
        references: Reference energies by source of the recipe.
        progress: How the training went.
        uncertainty: How far off energies of the recipe's branches may be.
    """
    start = recipe.trained
    assert recipe.start is not None or start is None
    kept = {}
    if start is not None and recipe.start is not None and recipe.start.keep_branches:
        kept = kept_branches(start, recipe.branches)
    kept_sources = [source for sources in kept.values() for source in sources]
    branches = {
        name: (*recipe.branches.get(name, ()), *kept.get(name, ()))
        for name in dict.fromkeys((*recipe.branches, *kept))
    }
    levels = {source: header.level_of_theory for source, header in recipe.headers.items()}
    data = dict(recipe.data)
    references = dict(references)
    if start is not None:
        levels |= {source: start.level_of_theory[source] for source in kept_sources}
        references |= {source: start.references[source] for source in kept_sources}
        known = start.training.get("data", {})
        data |= {source: known[source] for source in kept_sources if source in known}
    network = _with_branches_of(trained, start, branches)
    uncertainty = {**unmoved_uncertainty(start, network, recipe.branches), **uncertainty}
    model = SavedModel(
        network=network,
        settings=recipe.model_settings,
        branches=branches,
        references=references,
        level_of_theory=levels,
        uncertainty=uncertainty,
    )
    description = _training(recipe, progress, data)
    description["no_uncertainty"] = {
        source: _NOT_SINCE_IT_MOVED if source in kept_sources else _NO_ENERGIES
        for source in model.sources
        if model.uncertainty_of(source) is None
    }
    if start is not None:
        description["without_energies"] += [
            source
            for source in start.training.get("without_energies", ())
            if source in kept_sources
        ]
        description["start"] = {
            **recipe.plain_settings["start"],
            "from": start.training.get("model"),
        }
        description["drift"] = drift_of(start, model, recipe.packs)
        _log_drift(description["drift"])
    model.training.update(description)
    return model


def unmoved_uncertainty(
    start: SavedModel | None, network: MultiTaskModel, fed: Container[str]
) -> dict[str, BranchUncertainty]:
    """What is known of the kept branches of a start, where neither they nor the encoder moved.

    Args:
        start: What was started from.
        network: The trained network.
        fed: Branches that data fed.
    """
    if start is None or not _same(start.network.encoder, network.encoder):
        return {}
    return {
        name: found
        for name, found in start.uncertainty.items()
        if name not in fed
        and name in network.heads
        and _same(start.network.heads[name], network.heads[name])
    }


def _same(before: nn.Module, after: nn.Module) -> bool:
    """Whether two parts have the same weights to the last bit; force heads may be left behind."""
    old, new = before.state_dict(), after.state_dict()
    return all(torch.equal(old[name].to(value), value) for name, value in new.items())


def _with_branches_of(
    trained: MultiTaskModel, start: SavedModel | None, branches: Iterable[str]
) -> MultiTaskModel:
    """A network with the branches of one, and those of another that it does not have."""
    whole = MultiTaskModel(trained.settings, branches, seed=0)
    whole.to(next(trained.parameters()).dtype)
    whole.encoder.load_state_dict(trained.encoder.state_dict())
    for name, branch in whole.heads.items():
        theirs = trained if name in trained.heads or start is None else start.network
        branch.load_state_dict(only(theirs.heads[name].state_dict(), branch.state_dict()))
    return whole.eval()


def without_energies(recipe: Recipe) -> list[str]:
    """Sources whose training data have no energy."""
    return [
        source for source, header in recipe.headers.items() if not header.num_labels.get("energy")
    ]


def _training(
    recipe: Recipe, progress: TrainingProgress, data: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "model": recipe.name,
        "seed": recipe.seed,
        "settings": recipe.settings.model_dump(mode="json"),
        "epochs": progress.epoch,
        "steps": progress.step,
        "skipped_steps": progress.skipped_steps,
        "best_step": progress.best_step,
        "best_score": progress.best_score,
        "fingerprint": recipe.fingerprint,
        "data": dict(data),
        "leaky_sources": [source for source, header in recipe.headers.items() if header.leaky],
        "without_energies": without_energies(recipe),
    }


def _log_drift(drift: Mapping[str, Mapping[str, float]]) -> None:
    for branch, found in drift.items():
        if not found["num_structures"]:
            logger.info("branch %s is kept; there is no structure to measure its drift on", branch)
            continue
        logger.info(
            "branch %s is kept; on %d training structures its predictions have moved by "
            "%.2f meV/atom and %.2f meV/Å",
            branch,
            found["num_structures"],
            1000 * found["energy_ev_per_atom"],
            1000 * found["force_ev_per_angstrom"],
        )
