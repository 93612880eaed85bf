"""Continues a shorter training of the same model instead of repeating its steps.

Before its cooldown a training does not depend on how many epochs it has, see
`mtlpar.train.schedule`: its checkpoints up to there are those of a longer one.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mtlpar.core.files import read_json
from mtlpar.core.wording import counted
from mtlpar.train.checkpoint import HISTORY, RUN, CheckpointFolder
from mtlpar.train.progress import TrainingProgress, all_progress, step_folder, steps_in
from mtlpar.train.recipe import Recipe, described_fingerprint
from mtlpar.train.schedule import cooldown
from mtlpar.train.settings import TrainSettings

logger = logging.getLogger(__name__)

_LENGTH: Final = ("epochs", "cooldown", "patience_epochs")
"""Settings that say nothing about the steps before the cooldown."""


def continue_shorter(recipe: Recipe, checkpoints: CheckpointFolder) -> None:
    """Take over the latest fitting checkpoint of a training that differs in its length alone.

    Does nothing if this training has checkpoints of its own. Where others differ in their length
    alone and none of them fits, the log says why. One rank calls this for all.

    Args:
        recipe: The training.
        checkpoints: Its checkpoints.
    """
    if steps_in(checkpoints.folder):
        return
    others = list(_of_other_lengths(recipe, checkpoints.folder))
    if not others:
        return
    if recipe.settings.schedule == "cosine":
        _log_new_start(
            others,
            "along a cosine each rate depends on train.epochs. A training with "
            "train.schedule=constant can be extended",
        )
        return
    fitting = [
        (progress, folder)
        for folder, settings in others
        for found in all_progress(folder)
        if (progress := _as_if_longer(found, settings, recipe.settings)) is not None
        and step_folder(folder, progress.best_step).exists()
    ]
    if not fitting:
        _log_new_start(others, "none of its checkpoints is from before the cooldowns of both")
        return
    progress, folder = max(fitting, key=lambda one: one[0].step)
    checkpoints.take_over(folder, progress)
    shutil.copyfile(folder / HISTORY, checkpoints.folder / HISTORY)
    logger.info(
        "continues from epoch %d of the training in %s, which has another length",
        progress.epoch,
        folder,
    )


def _log_new_start(others: Sequence[tuple[Path, TrainSettings]], why: str) -> None:
    """Say why a training begins anew beside those that differ in their length alone."""
    folder, settings = max(others, key=lambda one: one[1].epochs)
    logger.info(
        "starts from the beginning and not from the training of %s in %s: %s",
        counted(settings.epochs, "epoch"),
        folder,
        why,
    )


def _of_other_lengths(recipe: Recipe, own: Path) -> Iterator[tuple[Path, TrainSettings]]:
    """Folders and settings of trainings that differ from this one in their length alone.

    Those without a checkpoint have nothing to continue from.
    """
    wanted = _without_length(recipe.describe())
    for path in sorted(own.parent.glob(f"*/{RUN}")):
        if path.parent == own or not steps_in(path.parent):
            continue
        if (found := _read_run(path)) is None:
            continue
        if _without_length(found) == wanted:
            yield path.parent, TrainSettings.model_validate(found["train"])


def _read_run(path: Path) -> dict[str, Any] | None:
    """What a training says of itself; None if that is not what its folder is named after.

    The settings decide what is continued, and the fingerprint is a digest of them.
    """
    try:
        found = read_json(path)
        is_sound = path.parent.name == described_fingerprint(found)[: len(path.parent.name)]
    except (AttributeError, KeyError, TypeError, ValueError):
        is_sound = False
    if not is_sound:
        logger.warning("%s does not describe the training it lies in; that one is left alone", path)
        return None
    return dict(found)


def _without_length(run: Mapping[str, Any]) -> dict[str, Any]:
    train = {key: value for key, value in run.get("train", {}).items() if key not in _LENGTH}
    return {**run, "fingerprint": None, "train": train}


def _as_if_longer(
    progress: TrainingProgress, settings: TrainSettings, longer: TrainSettings
) -> TrainingProgress | None:
    """Progress of a training as that of one of another length; None where they differ.

    Args:
        progress: How far a training had come.
        settings: Its settings.
        longer: Settings of the other one.
    """
    early_start = progress.early_start
    if longer.patience_epochs != settings.patience_epochs:
        patience = longer.patience_epochs
        if patience is not None and patience <= (settings.patience_epochs or patience):
            # It might have begun its cooldown before.
            return None
        early_start = None
    begins = (
        cooldown(settings, early_start=progress.early_start).start,
        cooldown(longer, early_start=early_start).start,
    )
    done = progress.epoch + (progress.epoch_steps > 0)
    if done > min(begins):
        return None
    return replace(progress, early_start=early_start, finished=False)
