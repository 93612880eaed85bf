"""Background threads deliver in order, pass errors on, and end; batches do not depend on them."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from helpers import make_structures
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlpar.core.structures import StructureBatch
from mtlpar.graph.settings import GraphSettings
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.train.loader import LocalBatch, RankLoader, prefetch
from mtlpar.train.sampler import EpochPlan


def _threads() -> int:
    return sum(thread.name.startswith("mtlpar-loader") for thread in threading.enumerate())


@settings(max_examples=20)
@given(count=st.integers(0, 12), threads=st.integers(1, 5), ahead=st.integers(0, 6))
def test_items_come_in_order_whatever_the_threads(count: int, threads: int, ahead: int) -> None:
    def make(item: int) -> int:
        # Early items take longest, so threads finish in the wrong order.
        time.sleep(0.001 * (count - item) if item % 3 == 0 else 0)
        return item**2

    batches = prefetch(make, range(count), threads=threads, ahead=ahead)
    assert list(batches) == [item**2 for item in range(count)]
    assert _threads() == 0


def test_an_error_in_a_thread_is_raised_where_its_item_would_have_come() -> None:
    def make(item: int) -> int:
        if item == 3:
            raise ValueError("structure 3 is damaged")
        return item

    batches = prefetch(make, range(10), threads=3)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="structure 3"):
        next(batches)
    assert _threads() == 0


def test_work_ahead_is_bounded_and_ends_when_the_consumer_leaves() -> None:
    made: list[int] = []
    batches = prefetch(lambda item: made.append(item) or item, range(100), threads=3, ahead=2)
    next(batches)
    time.sleep(0.2)
    assert sorted(made) == [0, 1, 2]
    batches.close()
    assert _threads() == 0
    assert len(made) == 3


def test_items_are_computed_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=10)
    # Each waits for the other: with one thread the barrier would break.
    assert len(list(prefetch(lambda _: together.wait(), range(2), threads=2, ahead=2))) == 2


class InMemory:
    """The least that a store has to be."""

    def __init__(self, structures: StructureBatch) -> None:
        self.structures = structures

    def __len__(self) -> int:
        return len(self.structures)

    def count_atoms(self, indices: np.ndarray) -> np.ndarray:
        return self.structures.num_atoms[indices]

    def label_bits(self, indices: np.ndarray) -> np.ndarray:
        return self.structures.label_bits[indices]

    def gather(self, indices: np.ndarray) -> tuple[StructureBatch, np.ndarray]:
        return self.structures.take(indices), self.structures.energy[indices]


SIZES = {"large": 40, "small": 7}


def _loader(rank: int = 0, world_size: int = 1, **changes: object) -> RankLoader:
    stores = {name: InMemory(make_structures(n, seed=n)) for name, n in SIZES.items()}
    layout = ParallelLayout.build("mtl-base", cost=dict.fromkeys(SIZES, 1.0), world_size=world_size)
    return RankLoader(
        stores,
        {name: name for name in SIZES},
        EpochPlan(SIZES, batch_structures=5, seed=3),
        layout,
        rank,
        GraphSettings(),
        torch.float64,
        **changes,
    )


def _epoch(loader: RankLoader, epoch: int, **options: int) -> list[LocalBatch]:
    """Batches of an epoch whose shares are not cut into passes."""
    return [batch for (batch,) in loader.epoch(epoch, **options)]


def _assert_equal(got: list[LocalBatch], expected: list[LocalBatch]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.segments == other.segments
        assert one.pieces == other.pieces
        assert one.structure_id.tolist() == other.structure_id.tolist()
        torch.testing.assert_close(one.targets, other.targets, rtol=0, atol=0)
        torch.testing.assert_close(one.graph.tensors(), other.graph.tensors(), rtol=0, atol=0)


@pytest.mark.parametrize("threads", [2, 5])
def test_batches_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    expected = _epoch(_loader(threads=1, ahead=0), 1)
    _assert_equal(_epoch(_loader(threads=threads, ahead=7), 1), expected)


@pytest.mark.parametrize("first_step", [0, 3, 8])
def test_an_epoch_continues_where_it_was_left(first_step: int) -> None:
    loader = _loader()
    rest = _epoch(loader, 2, first_step=first_step)
    _assert_equal(rest, _epoch(loader, 2)[first_step:])


def test_ranks_share_the_work_of_all_datasets_together_and_the_batch_stays() -> None:
    # The one structure of the small dataset in a step outweighs all others: its rank takes
    # nothing else, which a deal of each dataset by itself would not know.
    work = {"large": np.full(40, 10), "small": np.full(7, 35)}
    shares = [_epoch(_loader(rank, 2, work=work), 0) for rank in range(2)]
    for whole, *parts in zip(_epoch(_loader(), 0), *shares, strict=True):
        together = [identity for part in parts for identity in part.structure_id.tolist()]
        assert sorted(together) == sorted(whole.structure_id.tolist())
        sources = [[piece.source for piece in part.pieces] for part in parts]
        if any(piece.source == "small" for piece in whole.pieces):
            assert sorted(sources) == [["large"], ["large", "small"]] or (
                sorted(sources) == [["large"], ["small"]]
            )
            of_rank = [
                sum(
                    work[piece.source][0] * (piece.structures[1] - piece.structures[0])
                    for piece in part.pieces
                )
                for part in parts
            ]
            assert max(of_rank) - min(of_rank) <= 15


@pytest.mark.parametrize("world_size", [1, 3, 7])
def test_an_epoch_holds_every_structure_once_with_its_labels(world_size: int) -> None:
    whole = StructureBatch.concatenate([make_structures(n, seed=n) for n in SIZES.values()])
    energy_of = dict(zip(whole.structure_id.tolist(), whole.energy.tolist(), strict=True))
    seen: list[int] = []
    for rank in range(world_size):
        for batch in _epoch(_loader(rank, world_size), 0):
            seen += batch.structure_id.tolist()
            # With more ranks than structures in a step, some have nothing to do.
            assert (batch.graph is None) == (len(batch.structure_id) == 0)
            expected = [energy_of[identity] for identity in batch.structure_id.tolist()]
            assert batch.targets.energy_per_atom.tolist() == expected
            if batch.graph is not None:
                assert len(batch.targets.forces) == batch.graph.num_nodes
    assert sorted(seen) == sorted(energy_of)


def test_pieces_name_the_global_batch() -> None:
    # The first of two ranks divides by what both have.
    for mine, whole in zip(_epoch(_loader(0, 2), 0), _epoch(_loader(), 0), strict=True):
        sizes = {piece.source: piece for piece in whole.pieces}
        for piece in mine.pieces:
            first, last = sizes[piece.source].structures
            assert piece.counts.energies == last - first
            first, last = sizes[piece.source].atoms
            assert piece.counts.force_atoms == last - first
            assert piece.counts.stresses == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_pinned_batches_hold_the_same() -> None:
    pinned = list(_loader(pin_memory=True).epoch(0))
    _assert_equal(pinned, list(_loader().epoch(0)))
    assert all(batch.graph.pos.is_pinned() for batch in pinned)


@pytest.mark.parametrize("max_atoms", [1, 13, 30, 10_000])
@pytest.mark.parametrize("world_size", [1, 3])
def test_passes_hold_the_share_in_order_and_keep_the_limit(max_atoms: int, world_size: int) -> None:
    whole = _epoch(_loader(1 % world_size, world_size), 0)
    cut = list(_loader(1 % world_size, world_size, max_atoms=max_atoms).epoch(0))
    for share, passes in zip(whole, cut, strict=True):
        identities = np.concatenate([batch.structure_id for batch in passes])
        assert identities.tolist() == share.structure_id.tolist()
        for batch in passes:
            if batch.graph is None:
                assert len(passes) == 1
                continue
            # A structure larger than the limit is a pass of its own.
            assert batch.graph.num_nodes <= max_atoms or len(batch.structure_id) == 1
            # Errors are still divided by the counts of the global batch.
            counts = {piece.source: piece.counts for piece in share.pieces}
            assert all(piece.counts == counts[piece.source] for piece in batch.pieces)
        if max_atoms == 1:
            assert len(passes) == max(1, len(share.structure_id))
