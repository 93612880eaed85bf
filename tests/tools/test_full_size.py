"""Made-up files of any size are what the readers expect, and their labels pass every check."""

import h5py
import numpy as np
import pytest
from tools.full_size import hdf5_layout
from tools.full_size.native import WRITERS

from mtlpar.extract.checks import check
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings

# As many as the groups of a file have at least.
FEW = {"ani1x": 30, "qm7x": 16, "transition1x": 120, "mptrj": 110, "alexandria": 20}


@pytest.mark.parametrize("source", WRITERS)
def test_all_that_is_written_is_read_and_usable(tmp_path, source):
    written = WRITERS[source](tmp_path, FEW[source], np.random.default_rng(0))
    definition = get_source(source)
    rows = kept = 0
    energies = []
    for path in sorted(tmp_path.iterdir()):
        if not definition.is_data_file(path.name):
            continue
        for block in definition.read(path, SourceSettings()):
            assert block.damage is None
            rows += block.rows
            usable, dropped, *_ = check(block.batch, max_force=100.0)
            assert not dropped
            kept += len(usable)
            energies += usable.energy.tolist()
            assert np.abs(block.batch.forces).max() > 0.01
    assert rows == written
    # Endpoints of reactions are on their path, and counted as repeated.
    assert kept == (written if source != "transition1x" else written - 30)
    # What is written once for several files may be no structure, nor a label.
    assert len(set(energies)) == kept


@pytest.mark.parametrize("count", [1, 8, 9, 256, 257])
def test_groups_laid_out_by_hand_are_what_h5py_reads(tmp_path, count):
    # A node has room for 8 members, a tree of one level for 32 nodes.
    path, numbers = tmp_path / "file.h5", np.arange(3.0 * count).reshape(count, 3)
    keys = [f"key{index:03d}" for index in range(count)]
    content, members = numbers.tobytes(), []
    for index, key in enumerate(keys):
        members.append((key, hdf5_layout.SUPERBLOCK_BYTES + len(content)))
        place = hdf5_layout.SUPERBLOCK_BYTES + index * numbers[0].nbytes
        content += hdf5_layout.dataset((3,), numbers.dtype, place)
    names_at = hdf5_layout.SUPERBLOCK_BYTES + len(content)
    content += hdf5_layout.names(keys)
    at = hdf5_layout.SUPERBLOCK_BYTES + len(content)
    group, root = hdf5_layout.group(at, members, names_at)
    path.write_bytes(hdf5_layout.superblock(root, at + len(group)) + content + group)
    with h5py.File(path) as file:
        assert [*file] == keys
        np.testing.assert_array_equal([file[key][()] for key in keys], numbers)
