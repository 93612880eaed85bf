"""Starts a model from the weights of another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from torch import Tensor

from mtlpar.core.settings import laid_over
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.saved import SavedModel
from mtlpar.model.settings import ModelSettings

# What may differ: it changes nothing about weights, or only leaves the force heads out.
_FREE: Final = {
    ("encoder", "activation_checkpointing"): ((False, True), (True, False)),
    ("head", "forces"): (("equivariant", "conservative"),),
}


def start_from(
    model: MultiTaskModel, trained: SavedModel, *, new_branches: Mapping[str, str]
) -> None:
    """Copy encoder and branches of a trained model into one that holds some branches.

    A branch takes the weights of that of the same name, or of the one that ``new_branches`` gives,
    with the sizes of its targets: it predicts what that one predicts. Further branches keep their
    random weights. A model of conservative forces may start from one of direct forces, whose force
    heads stay behind.

    Args:
        model: The model to fill.
        trained: Where the weights come from.
        new_branches: Branches of the model by the trained branch they start from.

    Raises:
        ValueError: If the architectures differ, or the trained model has no such branch.
    """
    check_architecture(model.settings, trained.settings)
    model.encoder.load_state_dict(trained.network.encoder.state_dict())
    for name, branch in model.heads.items():
        source = start_branch(name, trained, new_branches)
        if source is not None:
            theirs = trained.network.heads[source].state_dict()
            branch.load_state_dict(only(theirs, branch.state_dict()))


def start_branch(name: str, trained: SavedModel, new_branches: Mapping[str, str]) -> str | None:
    """The trained branch that a branch starts from; None for random weights.

    Raises:
        ValueError: If one is asked for that the trained model does not have.
    """
    if name in new_branches and new_branches[name] not in trained.branches:
        raise ValueError(
            f"branch {name} is to start from {new_branches[name]!r}; the model to start from has "
            f"{', '.join(trained.branches)}"
        )
    source = new_branches.get(name, name)
    return source if source in trained.branches else None


def only(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of those names."""
    return {name: state[name] for name in names}


def architecture_from(trained: SavedModel, own: ModelSettings) -> ModelSettings:
    """Architecture of a model that starts from a file: that of the file, but for what is given.

    Raises:
        ValueError: If what is given does not fit the weights.
    """
    settings = laid_over(trained.settings, own)
    check_architecture(settings, trained.settings)
    return settings


def check_architecture(ours: ModelSettings, theirs: ModelSettings) -> None:
    """Refuse an architecture that the weights of another one do not fit.

    Raises:
        ValueError: If they differ in more than direct forces there and conservative ones here.
    """
    here, there = _flat(ours), _flat(theirs)
    differing = [
        f"{'.'.join(key)} is {there.get(key)!r} there and {here.get(key)!r} here"
        for key in dict.fromkeys((*here, *there))
        if here.get(key) != there.get(key)
        and (there.get(key), here.get(key)) not in _FREE.get(key, ())
    ]
    if differing:
        raise ValueError(
            f"a model can only start from one of the same architecture: {'; '.join(differing)}; "
            "change the block model of the config, or train from random weights"
        )


def _flat(settings: ModelSettings) -> dict[tuple[str, str], Any]:
    blocks = settings.model_dump(mode="json").items()
    return {(part, key): value for part, block in blocks for key, value in block.items()}
