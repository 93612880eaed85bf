"""A .bp returns what was written, or says why not."""

from __future__ import annotations

import shutil
from pathlib import Path

import adios2
import numpy as np
import pytest
from helpers import make_structures

from mtlpar.core.fields import FIELDS
from mtlpar.core.structures import StructureBatch
from mtlpar.store.bp import BpReader, write_bp


def _write(path: Path, *batches: StructureBatch) -> None:
    whole = StructureBatch.concatenate(batches)
    write_bp(
        path,
        batches,
        num_structures=len(whole),
        num_atoms=whole.total_atoms,
        attributes={"source": "made-up"},
    )


def _assert_equal(left: StructureBatch, right: StructureBatch) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


def test_reader_returns_what_writer_wrote_across_block_borders(tmp_path: Path) -> None:
    batch = make_structures(40, seed=5)
    _write(tmp_path / "a.bp", batch.slice(0, 13), batch.slice(13, 14), batch.slice(14, 40))
    with BpReader(tmp_path / "a.bp") as reader:
        assert len(reader) == 40
        _assert_equal(reader.read(), batch)
        # Slices that start, end and straddle where blocks meet.
        for start, stop in [(0, 13), (12, 15), (13, 14), (39, 40), (20, 20)]:
            _assert_equal(reader.read(start, stop), batch.slice(start, stop))
        _assert_equal(StructureBatch.concatenate(reader.iterate(7)), batch)


def test_energies_keep_all_digits_of_float64(tmp_path: Path) -> None:
    batch = make_structures(1, seed=5)
    batch.energy[0] = -29984.123456789012  # float32 would be off by 2 meV
    _write(tmp_path / "a.bp", batch)
    assert BpReader(tmp_path / "a.bp").read_column("energy")[0] == -29984.123456789012


def test_equal_data_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.bp", "b.bp"):
        _write(tmp_path / name, make_structures(10, seed=5))
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("a.bp", "b.bp")
    ]
    assert contents[0] == contents[1]


def test_a_short_delivery_is_refused_and_nothing_appears(tmp_path: Path) -> None:
    batch = make_structures(10, seed=5)
    with pytest.raises(ValueError, match="rows to write, expected"):
        write_bp(
            tmp_path / "a.bp",
            [batch.slice(0, 9)],
            num_structures=10,
            num_atoms=batch.total_atoms,
            attributes={},
        )
    assert list(tmp_path.iterdir()) == []


def test_foreign_missing_and_damaged_folders_are_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a \.bp folder"):
        BpReader(tmp_path / "absent.bp")
    with adios2.Stream(str(tmp_path / "foreign.bp"), "w") as stream:
        stream.write("x", np.arange(3), [3], [0], [3])
    with pytest.raises(ValueError, match="was not written by mtlpar"):
        BpReader(tmp_path / "foreign.bp")
    _write(tmp_path / "damaged.bp", make_structures(10, seed=5))
    (tmp_path / "damaged.bp" / "md.0").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected \d+ bytes: the folder is truncated"):
        BpReader(tmp_path / "damaged.bp")


def test_reading_past_the_end_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a.bp", make_structures(10, seed=5))
    with pytest.raises(ValueError, match="no structures 5 to 11 among 10"):
        BpReader(tmp_path / "a.bp").read(5, 11)


def test_a_pack_opens_after_it_was_moved(tmp_path: Path) -> None:
    batch = make_structures(10, seed=5)
    _write(tmp_path / "a.bp", batch)
    shutil.move(tmp_path / "a.bp", tmp_path / "elsewhere.bp")
    _assert_equal(BpReader(tmp_path / "elsewhere.bp").read(), batch)


def test_reading_leaves_no_files_behind(tmp_path: Path) -> None:
    # ADIOS2 writes a profile into /tmp whenever an engine is closed by hand.
    _write(tmp_path / "left-behind.bp", make_structures(3, seed=5))
    with BpReader(tmp_path / "left-behind.bp") as reader:
        reader.read()
    assert not list(Path("/tmp").glob("left-behind*"))
    assert [path.name for path in tmp_path.iterdir()] == ["left-behind.bp"]
