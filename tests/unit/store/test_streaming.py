"""Windows of a pack hold exactly what was wanted, and the thread that reads them is bounded."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import ELEMENT_ENERGIES_EV, make_structures, pack_attributes

from mtlpar.core.fields import FIELDS
from mtlpar.store.bp import BpReader, write_bp
from mtlpar.store.dataset import PackedDataset, PackSlice, StructureStore
from mtlpar.store.header import SCHEMA_VERSION, Blocks, BpHeader
from mtlpar.store.pack import Pack
from mtlpar.store.streaming import JoinedWindows, ReadAhead, StreamedDataset, streamed_bytes

BLOCKS = [5, 1, 7, 4, 6]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack with blocks of several sizes."""
    path = tmp_path_factory.mktemp("pack") / "train.bp"
    batches = [make_structures(count, seed=seed) for seed, count in enumerate(BLOCKS)]
    write_bp(
        path,
        batches,
        num_structures=sum(BLOCKS),
        num_atoms=sum(batch.total_atoms for batch in batches),
        attributes=pack_attributes("made-up", {"H": -13.6, "C": -1029.4, "O": -2041.8}),
        fields=[name for name, field in FIELDS.items() if field.packed],
    )
    assert set(ELEMENT_ENERGIES_EV) == {1, 6, 8}
    return path


def assert_same(store: StructureStore, expected: PackedDataset, indices: np.ndarray) -> None:
    """Compare one request bit by bit."""
    np.testing.assert_array_equal(
        store.count_atoms(indices), expected.structures.num_atoms[indices]
    )
    got, target = store.gather(indices)
    reference, reference_target = expected.gather(indices)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(got, name), getattr(reference, name), name)
    np.testing.assert_array_equal(target, reference_target)


def test_a_window_holds_what_was_wanted_and_the_sizes_of_the_rest(pack: Path) -> None:
    expected = PackedDataset(Pack.open(pack))
    # Blocks 1, 2 and 4 are structures 5 to 12 and 17 to 22.
    wanted = np.array([20, 5, 12, 6, 22])
    window = StreamedDataset(Pack.open(pack)).read([1, 2, 4], wanted)
    assert_same(window, expected, wanted)
    assert_same(window, expected, np.array([6, 6, 20]))
    inside = np.r_[5:13, 17:23]
    assert window.spans(np.arange(23)).nonzero()[0].tolist() == inside.tolist()
    assert window.holds(np.arange(23)).nonzero()[0].tolist() == sorted(wanted)
    np.testing.assert_array_equal(window.count_atoms(inside), expected.structures.num_atoms[inside])


def test_joined_windows_give_the_order_asked_for_even_where_they_overlap(pack: Path) -> None:
    # Structure 8 is in the blocks of both, but only the second was to keep it: the end of one pass
    # through the data and the beginning of the next.
    data = StreamedDataset(Pack.open(pack))
    with ReadAhead(lambda n: data.read(*[([0, 2], [0, 11]), ([2, 3], [8, 14])][n]), 2) as windows:
        joined = windows.get(range(2))
        assert_same(joined, PackedDataset(Pack.open(pack)), np.array([14, 0, 8, 11]))


def test_reading_ahead_keeps_to_the_next_window_and_ends_with_its_thread(pack: Path) -> None:
    data = StreamedDataset(Pack.open(pack))
    read: list[int] = []

    def note(number: int) -> object:
        read.append(number)
        return data.read([number], np.zeros(0, np.int64))

    with ReadAhead(note, 5) as windows:
        for number in range(3):
            store = windows.get(range(number, number + 1))
            assert isinstance(store, JoinedWindows)
            # Twice, as the steps of a window do.
            assert len(windows.get(range(number, number + 1))) == BLOCKS[number]
        assert len(windows.get(range(0))) == 0
    assert read in ([0, 1, 2], [0, 1, 2, 3])
    assert not any(thread.name.startswith("mtlpar-stream") for thread in threading.enumerate())


def test_damage_is_named_when_its_block_is_read(pack: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "train.bp"
    damaged.mkdir()
    for file in pack.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    with BpReader(pack) as reader:
        (block,) = (reader.read(17, 23).positions.tobytes(),)
    data = bytearray((damaged / "data.0").read_bytes())
    data[data.index(block) + 3] ^= 1
    (damaged / "data.0").write_bytes(data)
    stream = StreamedDataset(Pack.open(damaged))
    stream.read([0, 1, 2, 3], np.array([0]))
    with pytest.raises(ValueError, match="'positions' of structures 17 to 23"):
        stream.read([4], np.array([17]))


def test_a_slice_of_a_pack_is_read_whenever_it_is_gone_through(pack: Path) -> None:
    expected = PackedDataset(Pack.open(pack))
    share = PackSlice(Pack.open(pack), slice(4, 19))
    for _ in range(2):
        parts = list(share)
        identities = np.concatenate([batch.structure_id for batch, _ in parts])
        assert identities.tolist() == expected.structures.structure_id[4:19].tolist()
        targets = np.concatenate([target for _, target in parts])
        np.testing.assert_array_equal(targets, expected.target_ev_per_atom[4:19])
    assert list(PackSlice(Pack.open(pack), slice(7, 7))) == []


def _header(blocks: list[int]) -> BpHeader:
    return BpHeader(
        schema_version=SCHEMA_VERSION,
        num_structures=sum(blocks),
        num_atoms=20 * sum(blocks),
        fields=(),
        constants={},
        blocks=Blocks(
            num_structures=tuple(blocks), num_atoms=tuple(20 * count for count in blocks)
        ),
    )


def test_memory_grows_with_the_window_and_not_with_the_dataset() -> None:
    blocks = [16_384] * 30_000
    header = _header(blocks)
    # Three windows of 636 bytes a structure on four ranks, with sizes and labels of all: half a
    # gigabyte. Reading itself takes two blocks and twenty megabytes, be the pack large or small.
    needed = streamed_bytes(header, window=1_000_000, ranks=4)
    reading = 2 * 16_384 * 636 + 20 * 2**20
    assert needed == pytest.approx(3e6 * (636 / 4 + 9) + reading, rel=0.001)
    assert 0 < streamed_bytes(_header([500]), window=1_000_000, ranks=1) - 20 * 2**20 < 3e6
