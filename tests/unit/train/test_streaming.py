"""Data that stream from disk make the same batches as data in memory, whatever the memory."""

from __future__ import annotations

import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_structures, pack_attributes
from training import BRANCHES, run_alone

from mtlpar.core.fields import FIELDS
from mtlpar.core.paths import Workspace
from mtlpar.graph.settings import GraphSettings
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.store.bp import write_bp
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.memory import Demand, fullest_node
from mtlpar.store.pack import Pack
from mtlpar.store.streaming import StreamedDataset, Window
from mtlpar.train import placement
from mtlpar.train.loader import LocalBatch, RankLoader
from mtlpar.train.placement import choose_placement
from mtlpar.train.sampler import EpochPlan

# Blocks that are smaller than a step, of one structure, and of very different sizes.
BLOCKS = {"large": [9, 3, 12, 1, 8, 11], "small": [4, 2, 5]}
GIB = 2**30


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Packs of two datasets."""
    paths = {}
    for seed, (name, sizes) in enumerate(BLOCKS.items()):
        whole = make_structures(sum(sizes), seed=seed)
        ends = np.cumsum([0, *sizes]).tolist()
        paths[name] = tmp_path_factory.mktemp(name) / "train.bp"
        write_bp(
            paths[name],
            [whole.slice(*bounds) for bounds in itertools.pairwise(ends)],
            num_structures=len(whole),
            num_atoms=whole.total_atoms,
            attributes=pack_attributes(name, dict.fromkeys("HCO", -13.6)),
            fields=[field for field in FIELDS if FIELDS[field].packed],
        )
    return paths


def _loader(
    packs: dict[str, Path], kind: type, rank: int, world_size: int, **options: object
) -> RankLoader:
    plan = EpochPlan(
        {name: sum(sizes) for name, sizes in BLOCKS.items()},
        7,
        seed=3,
        # Passes that end in the middle of windows, and steps in which three windows lie.
        passes={"small": 2.4},
        blocks=BLOCKS,
        window=14,
    )
    layout = ParallelLayout.build(
        "mtl-base", cost=dict.fromkeys(BLOCKS, 1.0), world_size=world_size
    )
    return RankLoader(
        {name: kind(Pack.open(path)) for name, path in packs.items()},
        {name: name for name in BLOCKS},
        plan,
        layout,
        rank,
        GraphSettings(),
        torch.float64,
        # Of very different structures ranks take different numbers, from all over the batch.
        work={
            name: np.random.default_rng(5).integers(1, 1000, sum(sizes), dtype=np.uint32) ** 2
            for name, sizes in BLOCKS.items()
        },
        **options,
    )


def _content(passes: tuple[LocalBatch, ...]) -> list[tuple[object, ...]]:
    return [
        (
            batch.structure_id.tolist(),
            batch.segments,
            batch.pieces,
            [tensor.tolist() for tensor in batch.targets],
            None if batch.graph is None else batch.graph.pos.tolist(),
        )
        for batch in passes
    ]


@pytest.mark.parametrize("options", [{}, {"max_atoms": 20}, {"threads": 5, "ahead": 9}])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 3), (8, 9)])
def test_streamed_batches_equal_those_from_memory(
    packs: dict[str, Path], rank: int, world_size: int, options: dict[str, int]
) -> None:
    # With nine ranks some have a share in hardly any step.
    streamed = _loader(packs, StreamedDataset, rank, world_size, **options)
    expected = _loader(packs, PackedDataset, rank, world_size, **options)
    for epoch, first_step in ((0, 0), (1, 0), (1, 4), (0, expected.plan.steps - 1)):
        got = [_content(step) for step in streamed.epoch(epoch, first_step=first_step)]
        assert got == [_content(step) for step in expected.epoch(epoch, first_step=first_step)]


def test_no_more_than_three_windows_are_in_memory_and_only_this_ranks_structures(
    packs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: weakref.WeakSet[Window] = weakref.WeakSet()
    alive, kept = [], []
    read = StreamedDataset.read

    def note(self: StreamedDataset, blocks: list[int], wanted: np.ndarray) -> Window:
        window = read(self, blocks, wanted)
        windows.add(window)
        # A thread lets go of the windows of its batch a moment after it has delivered that.
        time.sleep(0.05)
        alive.append(len(windows))
        kept.append(len(wanted))
        return window

    monkeypatch.setattr(StreamedDataset, "read", note)
    loader = _loader({"large": packs["large"]}, StreamedDataset, 1, 3, ahead=1, threads=1)
    seen = [len(batch.structure_id) for (batch,) in loader.epoch(0)]
    assert len(alive) == 6
    assert max(alive) <= 3
    assert sum(kept) == sum(seen) <= sum(BLOCKS["large"]) / 2


def test_leaving_an_epoch_early_ends_the_threads(packs: dict[str, Path]) -> None:
    def threads() -> int:
        # Other tests may leave threads of their own.
        names = [one.name for one in threading.enumerate()]
        return sum(name.startswith(("mtlpar-loader", "mtlpar-stream")) for name in names)

    batches = _loader(packs, StreamedDataset, 0, 1).epoch(0)
    next(batches)
    assert threads()
    batches.close()
    assert not threads()


def _demand(node: str, gib: float, *, shared: float = 0.0) -> Demand:
    return Demand(node, int(gib * GIB), int(shared * GIB), 10 * GIB, 4 * GIB)


def test_demands_add_up_node_by_node_and_shared_memory_has_a_limit_of_its_own() -> None:
    demands = [_demand("a", 3), _demand("a", 3), _demand("b", 5), _demand("c", 4, shared=3)]
    # Six of ten, five of ten, and three of four gibibytes.
    assert fullest_node(demands) == _demand("c", 4, shared=3)
    assert fullest_node(demands[:3]) == _demand("a", 6)
    assert _demand("a", 7.9).fits
    assert not _demand("a", 8.1).fits
    assert not _demand("a", 4, shared=3.3).fits


def test_what_does_not_fit_is_streamed_or_refused_with_advice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    small, large = _demand("node", 2), _demand("node", 9)
    assert choose_placement("auto", in_memory=small, streamed=small) == "memory"
    assert "take up to 2.15 GB of 10.7 GB free on node" in caplog.text
    assert choose_placement("stream", in_memory=small, streamed=small) == "stream"
    assert choose_placement("auto", in_memory=large, streamed=small) == "stream"
    assert "would take 9.66 GB of 10.7 GB free on node: they are streamed" in caplog.text
    with pytest.raises(ValueError, match=r"only 80% .*ranks_per_copy.*train.data: stream"):
        choose_placement("memory", in_memory=large, streamed=small)
    with pytest.raises(ValueError, match=r"windows .* lower train.shuffle_structures"):
        choose_placement("auto", in_memory=large, streamed=large)


def test_memory_is_refused_before_anything_is_read(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "free_bytes", lambda: 10_000)
    monkeypatch.setattr(placement, "_open", lambda *_: pytest.fail("data were read"))
    with pytest.raises(ValueError, match=r"validation data take [\d.]+ kB of"):
        run_alone(copy_of(five_sources), BRANCHES, data="memory")
