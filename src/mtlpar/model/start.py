"""Starts a model from the weights of another one."""

from __future__ import annotations

from collections.abc import Mapping

from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.saved import SavedModel

_SCALES = ("energy_scale", "force_scale")


def start_from(
    model: MultiTaskModel, trained: SavedModel, *, new_branches: Mapping[str, str]
) -> None:
    """Copy encoder and branches of a trained model into one that holds some branches.

    Branches of the same name go on as they are, with the sizes of their targets: they predict what
    they predicted. A branch named in ``new_branches`` takes the weights of another one and keeps
    the sizes of its own targets. Further branches keep their random weights.

    Args:
        model: The model to fill, with the scales of its branches set.
        trained: Where the weights come from.
        new_branches: Branches of the model by the trained branch they start from.

    Raises:
        ValueError: If the architectures differ.
    """
    ours = model.settings.model_dump(mode="json")
    theirs = trained.settings.model_dump(mode="json")
    if ours != theirs:
        differing = [
            f"{part}.{key} is {value!r} there and {ours[part].get(key)!r} here"
            for part, values in theirs.items()
            for key, value in values.items()
            if ours[part].get(key) != value
        ]
        raise ValueError(
            f"a model can only start from one of the same architecture: {'; '.join(differing)}; "
            "change the block model of the config, or train from random weights"
        )
    model.encoder.load_state_dict(trained.network.encoder.state_dict())
    for name, branch in model.heads.items():
        source = new_branches.get(name, name)
        if source not in trained.network.heads:
            continue
        state = trained.network.heads[source].state_dict()
        if name in new_branches:
            own = branch.state_dict()
            state |= {key: own[key] for key in _SCALES}
        branch.load_state_dict(state)
