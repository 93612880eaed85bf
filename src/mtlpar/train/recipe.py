"""What a trained model depends on: data, architecture, settings and seed, and not where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mtlpar.core.files import file_digest
from mtlpar.core.hashing import json_digest
from mtlpar.model.file import load_model
from mtlpar.model.moving import set_moving
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.saved import SavedModel
from mtlpar.model.settings import ModelSettings
from mtlpar.model.start import start_from
from mtlpar.model.upgrades import WEIGHTS_VERSION
from mtlpar.store.header import PackHeader
from mtlpar.store.pack import Pack
from mtlpar.train.data import target_scale
from mtlpar.train.precision import weight_dtype
from mtlpar.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Start:
    """A trained model to start from.

    Attributes:
        path: Its file.
        new_branches: Branches of the new model by the branch of that one they start from.
        mode: What moves; see `mtlpar.model.moving.set_moving`.
        keep_branches: Keep its branches that no source feeds.
    """

    path: Path
    new_branches: Mapping[str, str]
    mode: str = "full"
    keep_branches: bool = True


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One named model as it is to be trained; equal recipes give equal models.

    Attributes:
        name: Name of the model.
        branches: Sources by branch.
        model_settings: Architecture.
        settings: How to train.
        seed: The run's seed.
        start: Trained model to start from; random weights if None.
        packs: Training pack of every source, in the order of the branches.
    """

    name: str
    branches: Mapping[str, tuple[str, ...]]
    model_settings: ModelSettings
    settings: TrainSettings
    seed: int
    start: Start | None
    packs: Mapping[str, Pack]

    @cached_property
    def branch_of(self) -> dict[str, str]:
        """Branch of every source, in order."""
        return {source: branch for branch in self.branches for source in self.branches[branch]}

    @cached_property
    def headers(self) -> dict[str, PackHeader]:
        """What the training pack of every source says."""
        return {source: pack.header for source, pack in self.packs.items()}

    @cached_property
    def data(self) -> dict[str, str]:
        """Digest of what is learned from every source."""
        return {source: pack.manifest.training_digest for source, pack in self.packs.items()}

    @cached_property
    def plain_settings(self) -> dict[str, Any]:
        """What the trained model depends on besides its data, as plain values."""
        return {
            "branches": {branch: list(sources) for branch, sources in self.branches.items()},
            "model": self.model_settings.model_dump(mode="json"),
            "model_format": WEIGHTS_VERSION,
            "train": self.settings.of_result(),
            "seed": self.seed,
            "start": self.start
            and {
                "model": file_digest(self.start.path),
                "branches": dict(self.start.new_branches),
                "mode": self.start.mode,
                "keep_branches": self.start.keep_branches,
            },
        }

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that the trained model depends on."""
        return json_digest({**self.plain_settings, "data": self.data})

    def describe(self) -> dict[str, Any]:
        """What the fingerprint is a digest of, to be read by people."""
        return {
            "model": self.name,
            "fingerprint": self.fingerprint,
            **self.plain_settings,
            "sources": {
                source: {
                    "num_structures": header.num_structures,
                    "num_atoms": header.num_atoms,
                    "level_of_theory": header.level_of_theory,
                    "references_ev": header.references_ev,
                    "training_digest": self.data[source],
                }
                for source, header in self.headers.items()
            },
        }

    @cached_property
    def trained(self) -> SavedModel | None:
        """The model to start from."""
        return None if self.start is None else load_model(self.start.path)

    def network(self, owned: tuple[str, ...], device: torch.device) -> MultiTaskModel:
        """Encoder and some of the branches as they are before the first step.

        Args:
            owned: The branches.
            device: Where to put them.
        """
        network = MultiTaskModel(self.model_settings, owned, seed=self.seed)
        network.set_scales(
            {branch: target_scale(self.headers, self.branches[branch]) for branch in owned}
        )
        network.to(device, weight_dtype(self.settings))
        if self.start is not None and self.trained is not None:
            start_from(network, self.trained, new_branches=self.start.new_branches)
            set_moving(network, self.start.mode, seed=self.seed)
        return network


def described_fingerprint(run: Mapping[str, Any]) -> str:
    """Fingerprint of a training by what `Recipe.describe` said of it."""
    sources = run["sources"]
    data = {source: facts["training_digest"] for source, facts in sources.items()}
    plain = {key: value for key, value in run.items() if key not in ("fingerprint", "sources")}
    return json_digest({**plain, "data": data})
