"""The folder of a fine-tuning: a configuration that Snakemake and every command can go on with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mtlpar.config import Config
from mtlpar.config.load import Stack
from mtlpar.core.fields import SPLITS
from mtlpar.finetune.folder import files_of, only_packs, refuse_own, write_own_config
from mtlpar.finetune.rates import encoder_rate
from mtlpar.finetune.replay import hold_still
from mtlpar.model.moving import set_moving
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.saved import SavedModel
from mtlpar.model.start import architecture_from, start_branch
from mtlpar.sources.registry import packaged_names

MODEL: Final = "tuned"
"""Name of the fine-tuned model."""

_TRAIN: Final[Mapping[str, Any]] = {
    "epochs": 60,
    "batch_structures": 8,
    "learning_rate": 2e-3,
    "warmup_steps": 20,
    "patience_epochs": 20,
}
_NORMALIZE: Final = {"val_fraction": 0.1, "test_fraction": 0.1}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for.

    Attributes:
        model_file: The model to start from.
        data: Files with the structures.
        level_of_theory: How their labels were computed.
        name: Name of the new source and its branch.
        mode: What moves; see `mtlpar.model.moving.set_moving`.
        assignments: Settings, such as ``train.epochs=5``.
    """

    model_file: Path
    data: Sequence[Path]
    level_of_theory: str
    name: str
    mode: str
    assignments: Sequence[str]


def write_config(
    folder: Path,
    request: Request,
    model: SavedModel,
    *,
    branch: str | None = None,
    replay: Mapping[str, Path | None] | None = None,
    passes: Mapping[str, float] | None = None,
) -> Config:
    """Write ``config.yaml`` of a fine-tuning.

    Args:
        folder: Where to.
        request: What is asked for.
        model: The model to start from.
        branch: The branch that the new one starts from, once it is known.
        replay: Sources that keep other branches where they are: files with their structures, or
            None where their packs lie in the folder.
        passes: How often an epoch visits the structures of sources, if not once.

    Returns:
        What it says.

    Raises:
        ValueError: If settings have a mistake, the model cannot start so, or the folder has a
            ``config.yaml`` that is not as this function wrote it.
    """
    refuse_own(request.assignments, _own(request.name))
    content = _content(request, model, branch, replay or {}, passes or {})
    stack = Stack(content, places=_options_of(request.name))
    for assignment in request.assignments:
        stack.add_override(assignment, option="--set")
    content["train"].setdefault("encoder_rate", _check_start(stack.check("fine-tuning"), model))
    write_own_config(folder, content, command="finetune", model=MODEL)
    return stack.check("fine-tuning")


def start_of(config: Config, model: SavedModel) -> str | None:
    """The branch of the model that the new one starts from; None for random weights.

    Args:
        config: The configuration of a fine-tuning.
        model: The model to start from.

    Raises:
        ValueError: If it is to start from a branch that the model does not have.
    """
    entry = config.model_entry(MODEL)
    assert entry.start_from is not None
    # A fine-tuning has one branch for new data, the first, called as their source.
    return start_branch(next(iter(entry.branches)), model, entry.start_from.branches)


def _content(
    request: Request,
    model: SavedModel,
    branch: str | None,
    replay: Mapping[str, Path | None],
    passes: Mapping[str, float],
) -> dict[str, Any]:
    """Settings of a fine-tuning before the user's own; arguments as of `write_config`."""
    replayed = _replayed_branches(model, replay)
    own = {**files_of(request.data), "level_of_theory": request.level_of_theory}
    packaged = packaged_names()
    custom_sources = {request.name: own} | {
        source: _replayed(model, source, path)
        for source, path in replay.items()
        if path is not None or source not in packaged
    }
    train = {**_TRAIN, **hold_still(replayed)}
    if passes:
        train["passes_per_epoch"] = dict(passes)
    start = {
        "model": str(request.model_file.resolve()),
        "branches": {} if branch is None else {request.name: branch},
        "mode": request.mode,
    }
    branches = {request.name: [request.name], **replayed}
    return {
        "sources": [request.name, *replay],
        "custom_sources": custom_sources,
        "normalize": dict(_NORMALIZE),
        "train": train,
        # For the tables, which are planned before the model is there.
        "model": {"head": {"forces": model.settings.head.forces}},
        "models": {MODEL: {"branches": branches, "start_from": start}},
    }


def _own(name: str) -> dict[str, str]:
    """What the user cannot set, and how to say it."""
    data = "name the files as DATA"
    return {
        "sources": data,
        f"custom_sources.{name}.files": data,
        f"custom_sources.{name}.mirrors": data,
        "paths.results": "name the folder with --out",
        "model": "the architecture is that of MODEL, and models.tuned.model has what may differ, "
        "such as head.forces",
        f"models.{MODEL}.branches": "name the branch with --name",
        f"models.{MODEL}.start_from.model": "name the model as MODEL",
    }


def _options_of(name: str) -> dict[str, str]:
    """The options that keys of the configuration come from: who gave these knows no keys."""
    return {
        f"models.{MODEL}": "--name",
        f"models.{MODEL}.start_from.mode": "--mode",
        f"custom_sources.{name}.level_of_theory": "--level",
    }


def _check_start(config: Config, model: SavedModel) -> float:
    """Find out whether a model can start so, before hours of preparing data.

    Returns:
        How fast its encoder is to move.
    """
    entry = config.model_entry(MODEL)
    assert entry.start_from is not None
    start_of(config, model)
    settings = architecture_from(model, entry.model)
    network = MultiTaskModel(settings, entry.branches, seed=config.seed)
    mode = entry.start_from.mode
    set_moving(network, mode, seed=config.seed)
    return encoder_rate(mode, same_forces=settings.head.forces == model.settings.head.forces)


def _replayed(model: SavedModel, source: str, path: Path | None) -> dict[str, Any]:
    level = model.level_of_theory[source.removeprefix("replay_")]
    if path is None:
        return only_packs(level)
    return {
        **files_of([path]),
        "level_of_theory": f"{level}, as the model predicts it",
        "group_key": "group",
        "splits": {"key": "split", **{split: [split] for split in SPLITS}},
    }


def _replayed_branches(model: SavedModel, replay: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for source in replay:
        found.setdefault(model.branch_of(source.removeprefix("replay_")), []).append(source)
    return found
