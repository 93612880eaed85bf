"""Short trainings in float64, in this process or on several ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from helpers import REPOSITORY
from warm import warm_python

from mtlpar.core.paths import Workspace
from mtlpar.core.yaml_text import load_yaml
from mtlpar.model.settings import EgnnSettings, HeadSettings, ModelSettings
from mtlpar.parallel.ranks import RankContext
from mtlpar.train import stage
from mtlpar.train.recipe import Start
from mtlpar.train.settings import TrainSettings
from mtlpar.train.stopping import StopRequest

SOURCES = ("ani1x", "qm7x", "mptrj", "alexandria", "transition1x")
MODEL = ModelSettings(
    encoder=EgnnSettings(width=12, layers=2, vector_channels=3, radial_basis=6),
    head=HeadSettings(width=12, layers=1),
)
# Five epochs of four steps; an odd batch so that shares differ by one.
TRAIN = TrainSettings(
    epochs=5,
    batch_structures=11,
    precision="float64",
    learning_rate=1e-3,
    warmup_steps=0,
    force_weight=3.0,
    max_gradient_norm=0.5,
    source_weights={"qm7x": 0.5},
)
BRANCHES = {source: (source,) for source in SOURCES}
# As many steps in less time, where it is about steps and epochs.
TWO_BRANCHES = {source: (source,) for source in ("ani1x", "qm7x")}


def _set(prefix: str, values: dict[str, Any]) -> list[str]:
    options = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            options += _set(f"{prefix}.{key}", value)
        elif value is not None:
            options += ["--set", f"{prefix}.{key}={json.dumps(value)}"]
    return options


def run_ranks(
    workspace: Workspace,
    ranks: int,
    *,
    branches: dict[str, tuple[str, ...]] | None = None,
    model: ModelSettings = MODEL,
    start: dict[str, Any] | None = None,
    **changes: Any,
) -> subprocess.CompletedProcess[str]:
    """Train through the command line; launcher and ranks have imported everything before."""
    _, *line = command_line(
        workspace, ranks, branches=branches, model=model, python=warm_python(), **changes
    )
    line = [*warm_python(), *line]
    if start is not None:
        line += ["--set", f"models.mtl.start_from={json.dumps(start)}"]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)


def command_line(
    workspace: Workspace,
    ranks: int,
    *,
    branches: dict[str, tuple[str, ...]] | None = None,
    model: ModelSettings = MODEL,
    python: list[str] | None = None,
    **changes: Any,
) -> list[str]:
    """The command that trains on several ranks, each of them a process of its own."""
    settings = TRAIN.model_copy(update=changes)
    branches = branches or BRANCHES
    return [
        *(sys.executable, "-m", "mtlpar", "launch", "--ranks-per-node", str(ranks), "--"),
        *(python or [sys.executable]),
        *("-m", "mtlpar"),
        *("train", "--model", "mtl", "--config", str(REPOSITORY / "config.yaml")),
        *_set("train", settings.model_dump()),
        *_set("model", model.model_dump()),
        *("--set", f"models.mtl.branches={json.dumps(branches)}"),
        *_own_sources(branches),
        *("--set", f"paths.results={workspace.results}"),
    ]


def _own_sources(branches: dict[str, tuple[str, ...]]) -> list[str]:
    """Options that make sources known of which there are only packs."""
    own = {source for sources in branches.values() for source in sources} - set(SOURCES)
    if not own:
        return []
    # Models of the config stay, and with them their sources.
    listed = load_yaml((REPOSITORY / "config.yaml").read_text())["sources"]
    custom = {name: {"files": ["none.xyz"], "level_of_theory": "made up"} for name in own}
    return [
        *("--set", f"custom_sources={json.dumps(custom)}"),
        *("--set", f"sources={json.dumps([*listed, *sorted(own)])}"),
    ]


def run_alone(
    workspace: Workspace,
    branches: dict[str, tuple[str, ...]] | None = None,
    *,
    deadline_s: float | None = None,
    model: ModelSettings = MODEL,
    start: Start | None = None,
    **changes: Any,
) -> None:
    """Train in this process."""
    stage.run(
        "mtl",
        branches=branches or BRANCHES,
        workspace=workspace,
        model_settings=model,
        settings=TRAIN.model_copy(update=changes),
        seed=0,
        context=RankContext(0, 1, torch.device("cpu")),
        deadline_s=deadline_s,
        start=start,
    )


def ask_to_stop(monkeypatch: pytest.MonkeyPatch, *, in_step: int) -> None:
    """Let a training in this process be asked, once, to stop after a step, as a signal would."""
    asked = iter([None] * (in_step - 1) + ["a test"])
    monkeypatch.setattr(StopRequest, "reason", property(lambda _: next(asked, None)))


def history(workspace: Workspace) -> list[dict[str, Any]]:
    """All lines of ``metrics.jsonl``."""
    return [json.loads(line) for line in workspace.training_metrics("mtl").read_text().splitlines()]


def epoch_lines(workspace: Workspace) -> list[dict[str, Any]]:
    """The lines that close an epoch."""
    return [line for line in history(workspace) if line["kind"] == "epoch"]


def losses(workspace: Workspace) -> np.ndarray:
    """Loss of every step."""
    return np.array([line["loss"] for line in history(workspace) if line["kind"] == "step"])
