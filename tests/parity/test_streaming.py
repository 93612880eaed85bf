"""A training whose data stream from disk is the training whose data are in memory.

Blocks of six structures and windows of two blocks: ranks keep shares of windows, steps lie across
their borders, and every epoch mixes other blocks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import pytest
from training import SOURCES, ask_to_stop, epoch_lines, losses, run_alone, run_ranks

from mtlpar.core.paths import Workspace
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings
from mtlpar.parallel.agree import Interrupted

WINDOWS = {"shuffle_structures": 14, "epochs": 3}


@pytest.fixture(scope="module")
def small_blocks(five_sources: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The five sources in packs of many blocks, and a training on them from memory."""
    results = tmp_path_factory.mktemp("blocks") / "results"
    shutil.copytree(five_sources.results, results)
    workspace = Workspace(raw=five_sources.raw, results=results)
    for source in SOURCES:
        settings = PackSettings(block_structures=6)
        pack.run(source, workspace=workspace, settings=settings, seed=0)
    run_alone(workspace, data="memory", **WINDOWS)
    return workspace


def _validation(workspace: Workspace) -> list[float]:
    return [
        value
        for line in epoch_lines(workspace)
        for errors in line["val"].values()
        for value in errors.values()
    ]


@pytest.mark.long
def test_streaming_takes_the_same_steps_through_an_interruption(
    small_blocks: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = copy_of(small_blocks)
    ask_to_stop(monkeypatch, in_step=7)
    with pytest.raises(Interrupted, match="stopped after step 7"):
        run_alone(workspace, data="stream", **WINDOWS)
    run_alone(workspace, data="stream", **WINDOWS)
    assert losses(workspace).tolist() == losses(small_blocks).tolist()
    # Batches of the validation end where pieces of the pack do.
    np.testing.assert_allclose(_validation(workspace), _validation(small_blocks), rtol=1e-12)


@pytest.mark.mpi
def test_ranks_that_stream_take_the_steps_of_one_process(
    small_blocks: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(small_blocks)
    done = run_ranks(workspace, 3, layout="mtl-base", data="stream", **WINDOWS)
    assert done.returncode == 0, done.stderr
    assert "windows of streamed data take up to" in done.stderr
    np.testing.assert_allclose(losses(workspace), losses(small_blocks), rtol=1e-10)
    np.testing.assert_allclose(_validation(workspace), _validation(small_blocks), rtol=1e-10)
