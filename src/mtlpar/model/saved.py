"""The trained model as one file: weights, architecture, references and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mtlpar.core.files import atomic_path
from mtlpar.core.references import References
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.settings import ModelSettings

FORMAT_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """Everything that prediction needs, ready to use.

    Attributes:
        network: The network with all its branches, in evaluation mode.
        settings: Its architecture.
        branches: Sources by branch.
        references: Reference energies by source; they bring predictions back to total energies.
        level_of_theory: How each source's labels were computed.
        training: Seed, settings and history, for people.
    """

    network: MultiTaskModel
    settings: ModelSettings
    branches: Mapping[str, tuple[str, ...]]
    references: Mapping[str, References]
    level_of_theory: Mapping[str, str]
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources the model learned from; each can be asked for as a head."""
        return tuple(source for sources in self.branches.values() for source in sources)

    def branch_of(self, source: str) -> str:
        """Branch that answers for a source.

        Raises:
            ValueError: If the model did not learn from that source.
        """
        for branch, sources in self.branches.items():
            if source in sources:
                return branch
        raise ValueError(f"no head is called {source!r}; this model has {', '.join(self.sources)}")

    def branch_for_foreign(self, source: str) -> str:
        """Branch to try on any source: its own, or the only one of a single-branch model.

        Raises:
            ValueError: If the model has several branches and none learned from the source.
        """
        if source not in self.sources and len(self.branches) == 1:
            return next(iter(self.branches))
        return self.branch_of(source)


def save_model(
    path: Path,
    *,
    state: Mapping[str, Tensor],
    settings: ModelSettings,
    branches: Mapping[str, tuple[str, ...]],
    references: Mapping[str, References],
    level_of_theory: Mapping[str, str],
    training: Mapping[str, Any],
) -> None:
    """Write a model file atomically; it loads with ``weights_only=True``.

    Args:
        path: File to write.
        state: State of a network that holds all branches.
        settings: Its architecture.
        branches: Sources by branch.
        references: Reference energies by source.
        level_of_theory: Level of theory by source.
        training: Plain values that say how the model was trained.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "settings": settings.model_dump(mode="json"),
        "branches": {branch: list(sources) for branch, sources in branches.items()},
        "references_ev": {name: dict(refs.energies_ev) for name, refs in references.items()},
        "level_of_theory": dict(level_of_theory),
        "training": dict(training),
        "state": {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_model(path: str | Path, *, device: torch.device | str = "cpu") -> SavedModel:
    """Load a model file that the train stage wrote.

    Args:
        path: The ``model.pt``.
        device: Where to put the network.

    Raises:
        ValueError: If the file is missing, is not such a model or has another format version.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no model at {path}; the train stage writes it")
    content = torch.load(path, map_location=device, weights_only=True)
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has model format {version!r}, expected {FORMAT_VERSION}")
    settings = ModelSettings.model_validate(content["settings"])
    state = content["state"]
    network = MultiTaskModel(settings, content["branches"], seed=0)
    network.to(device=device, dtype=next(iter(state.values())).dtype)
    network.load_state_dict(state)
    network.eval()
    return SavedModel(
        network=network,
        settings=settings,
        branches={branch: tuple(sources) for branch, sources in content["branches"].items()},
        references={
            name: References.from_dict(energies)
            for name, energies in content["references_ev"].items()
        },
        level_of_theory=content["level_of_theory"],
        training=content["training"],
    )
