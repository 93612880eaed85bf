"""Networks whose weights are about to be loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.overrides import TorchFunctionMode

from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.settings import ModelSettings


def undrawn_network(settings: ModelSettings, branches: Iterable[str]) -> MultiTaskModel:
    """A network whose weights are whatever lies in memory, until a state is loaded.

    Drawing random weights that nothing reads takes most of the time of loading a large model.

    Args:
        settings: Architecture.
        branches: Names of the branches to hold.

    Raises:
        ValueError: If a branch has a name that the network cannot take.
    """
    with _NoDraws():
        return MultiTaskModel(settings, branches, seed=0)


class _NoDraws(TorchFunctionMode):
    """Leaves out the functions of `torch.nn.init` that torch lets a mode see: those that draw."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return given.get("tensor", args[0] if args else None)
        return func(*args, **given)
