"""A trained model that fine-tuning and distilling start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared import made_once
from training import BRANCHES, run_alone

from mtlpar.core.paths import Workspace


@pytest.fixture(scope="session")
def start(five_sources: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A model of three sources, trained until it has learned something; read only."""

    def train(folder: Path) -> None:
        (folder / "packed").symlink_to(five_sources.results / "packed")
        branches = {name: BRANCHES[name] for name in ("ani1x", "qm7x", "mptrj")}
        workspace = Workspace(raw=five_sources.raw, results=folder)
        run_alone(workspace, branches, epochs=15, learning_rate=1e-2, precision="float32")

    return Workspace(raw=five_sources.raw, results=made_once(tmp_path_factory, "start", train))
