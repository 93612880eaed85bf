"""A pack is opened once: on the file system of a large machine every opening is slow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from training import run_alone

from mtlpar.core.paths import Workspace
from mtlpar.evaluate import stage as evaluate
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.store.bp import BpReader

SOURCES = ("ani1x", "qm7x")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each .bp folder was opened, by whatever class."""
    counts = Counter[Path]()
    open_folder = BpReader.__init__

    def count(self: BpReader, path: Path, *arguments: object, **options: object) -> None:
        counts[path] += 1
        open_folder(self, path, *arguments, **options)

    monkeypatch.setattr(BpReader, "__init__", count)
    return counts


@pytest.mark.long
@pytest.mark.parametrize("data", ["memory", "stream"])
def test_training_and_evaluation_open_each_pack_once(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    opened: Counter[Path],
    data: str,
) -> None:
    workspace = copy_of(five_sources)
    branches = {source: (source,) for source in SOURCES}
    # Two epochs validate twice; streamed data are read anew every time.
    run_alone(workspace, branches, epochs=2, data=data)
    splits = ("train", "val")
    packs = {workspace.pack(source, split) for source in SOURCES for split in splits}
    assert opened == dict.fromkeys(packs, 1)
    opened.clear()
    evaluate.run("mtl", workspace=workspace, settings=EvaluateSettings(), sources=SOURCES, seed=0)
    assert opened == dict.fromkeys((workspace.pack(source, "test") for source in SOURCES), 1)
