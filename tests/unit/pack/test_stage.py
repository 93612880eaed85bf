"""Packs hold every structure of a split once, shuffled, and describe themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import make_structures, write_extracted

from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage
from mtlpar.pack.settings import PackSettings
from mtlpar.store.bp import BpReader


def _pack(folder: Path, *batches: StructureBatch, block: int = 1000) -> Workspace:
    workspace = Workspace(raw=folder / "raw", results=folder / "results")
    write_extracted(workspace, "qm7x", *batches)
    settings = NormalizeSettings(val_fraction=0.2, test_fraction=0.2)
    normalize.run("qm7x", workspace=workspace, settings=settings, seed=0)
    stage.run("qm7x", workspace=workspace, settings=PackSettings(block_structures=block), seed=0)
    return workspace


def test_splits_partition_the_structures_and_labels_stay_with_them(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    workspace = _pack(tmp_path, batch)
    packs = [BpReader(workspace.pack("qm7x", split)).read() for split in ("train", "val", "test")]
    together = StructureBatch.concatenate(packs)
    order = np.argsort(together.structure_id)
    expected = np.argsort(batch.structure_id)
    for name in ("structure_id", "energy", "num_atoms", "group"):
        np.testing.assert_array_equal(
            getattr(together, name)[order], getattr(batch, name)[expected]
        )
    np.testing.assert_array_equal(together.take(order).positions, batch.take(expected).positions)


def test_no_group_lies_in_two_packs(tmp_path: Path) -> None:
    workspace = _pack(tmp_path, make_structures(60, seed=1))
    groups = [
        set(BpReader(workspace.pack("qm7x", split)).read_column("group").tolist())
        for split in ("train", "val", "test")
    ]
    assert sum(map(len, groups)) == len(set.union(*groups))


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_packs_do_not_depend_on_file_order_or_block_size(tmp_path: Path, block: int) -> None:
    batch = make_structures(60, seed=1)
    one = _pack(tmp_path / "one", batch)
    other = _pack(tmp_path / "other", batch.slice(45, 60), batch.slice(0, 45), block=block)
    for split in ("train", "val", "test"):
        left = BpReader(one.pack("qm7x", split)).read()
        right = BpReader(other.pack("qm7x", split)).read()
        np.testing.assert_array_equal(left.structure_id, right.structure_id)
        np.testing.assert_array_equal(left.forces, right.forces)


def test_neighbours_in_a_trajectory_are_not_neighbours_in_the_pack(tmp_path: Path) -> None:
    # A rank reads one contiguous slice: it must not be one trajectory.
    workspace = _pack(tmp_path, make_structures(90, seed=1))
    group = BpReader(workspace.pack("qm7x", "train")).read_column("group")
    assert np.mean(group[1:] == group[:-1]) < 0.2


def test_pack_says_unit_and_references_to_a_stranger(tmp_path: Path) -> None:
    workspace = _pack(tmp_path, make_structures(60, seed=1))
    attributes = BpReader(workspace.pack("qm7x", "train")).attributes
    assert set(attributes["references_ev"]) == {"H", "C", "O"}
    assert attributes["level_of_theory"] == "softened Coulomb repulsion"
    assert attributes["raw_files"] == {"made-up": "0" * 64}
