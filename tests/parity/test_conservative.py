"""Conservative forces train alike on any layout: the second derivative stays inside each rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import training
from training import MODEL, losses, run_alone, run_ranks

from mtlpar.core.paths import Workspace
from mtlpar.model.settings import ModelSettings

CONSERVATIVE = ModelSettings(
    encoder=MODEL.encoder, head=MODEL.head.model_copy(update={"forces": "conservative"})
)


@pytest.mark.mpi
def test_two_epochs_on_three_ranks_equal_those_of_one_process(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # Five branches on three ranks: some ranks mix datasets in one graph, one differentiates only
    # its own branch, and gradients of force heads that do not exist must not be waited for.
    monkeypatch.setattr(training, "MODEL", CONSERVATIVE)
    alone = copy_of(five_sources)
    run_alone(alone, epochs=2)
    expected = losses(alone)
    together = Workspace(raw=alone.raw, results=tmp_path / "ranks")
    together.results.mkdir()
    (together.results / "packed").symlink_to(five_sources.results / "packed")
    done = run_ranks(together, 3, epochs=2)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(together), expected, rtol=1e-10)
