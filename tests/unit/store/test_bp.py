"""A .bp returns what was written, or says why not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import adios2
import numpy as np
import pytest
from helpers import make_structures
from hypothesis import given, settings
from hypothesis import strategies as st

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


def _pieces(reader: BpReader, size: int) -> Iterator[StructureBatch]:
    return (reader.read(start, stop) for start, stop in reader.slices(size))


def test_reader_returns_what_writer_wrote_across_block_borders(tmp_path: Path) -> None:
    batch = make_structures(40, seed=5)
    _write(tmp_path / "a.bp", batch.slice(0, 13), batch.slice(13, 14), batch.slice(14, 40))
    with BpReader(tmp_path / "a.bp") as reader:
        assert len(reader) == 40
        _assert_equal(reader.read(), batch)
        # Slices that start, end and straddle where blocks meet.
        for start, stop in [(0, 13), (12, 15), (13, 14), (39, 40), (20, 20)]:
            _assert_equal(reader.read(start, stop), batch.slice(start, stop))
        _assert_equal(StructureBatch.concatenate(_pieces(reader, 7)), batch)


def test_pieces_are_whole_blocks_however_large(intact: Path) -> None:
    # Parts of a block have no checksum: damage would be read without a word.
    with BpReader(intact) as reader:
        assert list(reader.slices(5)) == [(0, 13), (13, 20)]
        assert list(reader.slices(15)) == [(0, 13), (13, 20)]
        assert list(reader.slices(20)) == [(0, 20)]


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
    with pytest.raises(ValueError, match=r"absent\.bp is missing; run"):
        BpReader(tmp_path / "absent.bp")
    with adios2.Stream(str(tmp_path / "foreign.bp"), "w") as stream:
        stream.write("x", np.arange(3), [3], [0], [3])
    with pytest.raises(ValueError, match="was not written by mtlpar"):
        BpReader(tmp_path / "foreign.bp")
    _write(tmp_path / "damaged.bp", make_structures(10, seed=5))
    (tmp_path / "damaged.bp" / "md.0").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected \d+ bytes: the folder is truncated"):
        BpReader(tmp_path / "damaged.bp")
    # Nothing would be compared, and ADIOS2 would be left alone with whatever is there.
    (tmp_path / "damaged.bp" / "seal.json").write_text("{}")
    with pytest.raises(ValueError, match=r"seal\.json names no files; write or copy"):
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


_FILES = ("data.0", "md.0", "md.idx", "mmd.0", "seal.json")


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("intact") / "a.bp"
    batch = make_structures(20, seed=5)
    _write(path, batch.slice(0, 13), batch.slice(13, 20))
    assert {file.name for file in path.iterdir()} == set(_FILES)
    return path


@pytest.mark.parametrize("name", _FILES)
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99, None])
def test_a_truncated_or_missing_file_is_refused_before_adios_hangs_on_it(
    intact: Path, tmp_path: Path, name: str, fraction: float | None
) -> None:
    path = shutil.copytree(intact, tmp_path / "a.bp")
    if fraction is None:
        (path / name).unlink()
    else:
        os.truncate(path / name, int(fraction * (path / name).stat().st_size))
    with pytest.raises(ValueError, match=rf"{name}"):
        BpReader(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_harmless(
    intact: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(_FILES))
    position = data.draw(st.integers(0, (intact / name).stat().st_size - 1))
    content = bytearray((intact / name).read_bytes())
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path = shutil.copytree(intact, tmp_path_factory.mktemp("flipped") / "a.bp")
    (path / name).write_bytes(content)
    try:
        with BpReader(path) as reader:
            batch = reader.read()
    except ValueError:
        return
    # Only blanks of the checksums may change without harm.
    assert name == "seal.json"
    _assert_equal(batch, make_structures(20, seed=5))


def test_a_damaged_column_is_named_with_the_structures_it_spoils(
    intact: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(intact, tmp_path / "a.bp")
    content = bytearray((path / "data.0").read_bytes())
    wanted = make_structures(20, seed=5).energy[15:16].tobytes()
    content[content.index(wanted)] ^= 1
    (path / "data.0").write_bytes(content)
    message = "column 'energy' of structures 13 to 20 has checksum"
    with BpReader(path) as reader:
        reader.read(0, 13)  # what is whole stays readable
        reader.read_column("forces")
        with pytest.raises(ValueError, match=message):
            reader.read_column("energy")
        # Slices that end inside blocks would leave the damage unseen.
        with pytest.raises(ValueError, match=message):
            list(_pieces(reader, 15))


def test_a_constant_column_is_an_attribute_and_reads_like_a_column(tmp_path: Path) -> None:
    batch = make_structures(10, seed=5)
    batch.pbc[:] = (1, 1, 0)
    batch.stress[:] = np.float32(0.1)
    write_bp(
        tmp_path / "a.bp",
        [batch],
        num_structures=10,
        num_atoms=batch.total_atoms,
        attributes={},
        constants={"pbc": batch.pbc[0], "stress": batch.stress[0]},
    )
    with BpReader(tmp_path / "a.bp") as reader:
        _assert_equal(reader.read(), batch)
        _assert_equal(reader.read(3, 5), batch.slice(3, 5))
    with adios2.FileReader(str(tmp_path / "a.bp")) as reader:
        assert "pbc" not in reader.available_variables()
        assert reader.read_attribute("pbc/constant").tolist() == [1, 1, 0]


def test_every_column_explains_itself_without_mtlpar(intact: Path) -> None:
    with adios2.FileReader(str(intact)) as reader:
        attributes = reader.available_attributes()
        for name, field in FIELDS.items():
            assert reader.read_attribute(f"{name}/unit") == field.unit
            assert reader.read_attribute(f"{name}/description") == field.description
            assert reader.read_attribute(f"{name}/level") == field.level
            assert f"{name}/crc32" in attributes
        assert "num_atoms says" in reader.read_attribute("about")
