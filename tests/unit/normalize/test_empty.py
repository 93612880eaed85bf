"""A split without structures ends normalize, whatever left it so, with the ways out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import make_structures, rewrite, write_extracted

from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.normalize import stage
from mtlpar.normalize.settings import NormalizeSettings

SETTINGS = NormalizeSettings(val_fraction=0.2, test_fraction=0.2)


def _refusal(
    folder: Path, batch: StructureBatch, *, split: str = "groups", given_splits: bool = False
) -> str:
    workspace = Workspace(raw=folder / "raw", results=folder / "results")
    write_extracted(workspace, "own", batch, given_splits=given_splits)
    settings = SETTINGS.model_copy(update={"split": split})
    with pytest.raises(ValueError, match=r"own: ") as caught:
        stage.run("own", workspace=workspace, settings=settings, seed=0)
    assert not workspace.ledger("own").exists()
    return str(caught.value)


def test_blocks_of_groups_with_two_frames_leave_val_and_test_empty(tmp_path: Path) -> None:
    batch = make_structures(40, seed=1)
    batch.group[:] = np.arange(40) // 2
    told = _refusal(tmp_path, batch, split="blocks")
    assert "no structure for val and test" in told
    assert "40 rows of 20 groups = 40 train, 0 val, 0 test, dropped: none, dealt by blocks" in told
    assert "normalize.split.own=groups" in told
    assert "normalize.split.own=frames" in told


def test_blocks_that_copies_pull_into_train_are_refused(tmp_path: Path) -> None:
    # One trajectory that comes back: the frames of val and test are turned copies of some in train,
    # with energies that differ by more than those of duplicates may, so that all of them stay.
    first = make_structures(6, seed=1)
    again = rewrite(first.slice(0, 4), seed=0, moved=True, turned=True, reordered=True)
    again.energy += again.num_atoms
    batch = StructureBatch(
        {
            name: np.concatenate([values, again.columns()[name]])
            for name, values in first.columns().items()
        }
    )
    batch.group[:] = 0
    told = _refusal(tmp_path, batch, split="blocks")
    assert "= 10 train, 0 val, 0 test" in told
    assert "and with a frame its copies" in told


@pytest.mark.parametrize(
    ("split", "way_out"), [("groups", "normalize.split.own=blocks"), ("frames", "Add structures")]
)
def test_too_few_units_are_refused_with_what_would_help(
    tmp_path: Path, split: str, way_out: str
) -> None:
    batch = make_structures(2, seed=1)
    batch.group[:] = 0
    told = _refusal(tmp_path, batch, split=split)
    assert "2 rows of 1 group =" in told
    assert way_out in told
    assert f"normalize.split.own={split}" not in told


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_given_splits_without_structures_are_named(tmp_path: Path, empty: int) -> None:
    batch = make_structures(30, seed=1)
    batch.official_split = ((empty + 1 + np.arange(30) % 2) % 3).astype(np.int8)
    told = _refusal(tmp_path, batch, given_splits=True)
    assert f"no structure for {('train', 'val', 'test')[empty]}, expected" in told
    assert "custom_sources.own.splits" in told


def test_elements_that_train_has_not_are_named_as_what_emptied_a_split(tmp_path: Path) -> None:
    # Groups of one element each: what validation and test hold is in none of train.
    columns = make_structures(12, seed=1).columns()
    owner = np.repeat(np.arange(12), columns["num_atoms"])
    columns["group"] = np.arange(12, dtype=np.uint64) // 4
    columns["atomic_numbers"] = (owner // 4 + 6).astype(columns["atomic_numbers"].dtype)
    told = _refusal(tmp_path, StructureBatch(columns))
    assert "12 rows of 3 groups = 4 train, 0 val, 0 test, dropped: 8 element_not_in_train" in told
    assert "see that train has every element" in told
