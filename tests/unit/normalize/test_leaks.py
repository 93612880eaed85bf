"""The leak report finds what sources share, and only that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import make_structures, rewrite, write_extracted

from mtlpar.core.files import read_json
from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.normalize import leaks, stage
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.normalize.split import DROPPED, count_overlap
from mtlpar.store.extracted import ExtractedSource


def _workspace(folder: Path, sources: dict[str, list[StructureBatch]]) -> Workspace:
    workspace = Workspace(raw=folder / "raw", results=folder / "results")
    settings = NormalizeSettings(val_fraction=0.2, test_fraction=0.3)
    for source, batches in sources.items():
        write_extracted(workspace, source, *batches)
        stage.run(source, workspace=workspace, settings=settings, seed=0)
    return workspace


def _pairs(workspace: Workspace) -> dict[tuple[str, str], dict]:
    return {(p["train"], p["test"]): p for p in read_json(workspace.leaks)["pairs"]}


def test_geometries_and_formulas_shared_across_sources_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, other = make_structures(90, seed=1), make_structures(60, seed=2)
    # Source b holds ten geometries of source a, under groups of its own.
    copies = first.take(np.arange(10))
    copies.group = np.arange(10, dtype=np.uint64) + np.uint64(7000)
    workspace = _workspace(
        tmp_path, {"a": [first.slice(0, 50), first.slice(50, 90)], "b": [other, copies]}
    )
    leaks.run(["a", "b"], workspace=workspace)
    split_a = ExtractedSource(workspace, "a").splits()[:10]
    split_b = ExtractedSource(workspace, "b").splits()[60:]
    pairs = _pairs(workspace)
    assert pairs["a", "b"]["same_geometry"] == int(((split_a == 0) & (split_b == 2)).sum())
    assert pairs["b", "a"]["same_geometry"] == int(((split_b == 0) & (split_a == 2)).sum())
    assert pairs["a", "b"]["same_geometry"] + pairs["b", "a"]["same_geometry"] > 0
    assert "structures with exactly the geometry of one in" in caplog.text
    assert pairs["a", "a"]["same_geometry"] == pairs["b", "b"]["same_geometry"] == 0

    def formulas(batch: StructureBatch, split: np.ndarray, index: int) -> list[tuple[int, ...]]:
        structures = np.split(batch.atomic_numbers, batch.offsets[1:-1])
        return [tuple(sorted(z)) for z, s in zip(structures, split, strict=True) if s == index]

    everything_b = StructureBatch.concatenate([other, copies])
    trained = set(formulas(first, ExtractedSource(workspace, "a").splits(), 0))
    tested = formulas(everything_b, ExtractedSource(workspace, "b").splits(), 2)
    assert pairs["a", "b"]["same_composition"] == sum(formula in trained for formula in tested)
    assert pairs["a", "b"]["test_structures"] == len(tested)


def test_geometries_of_another_source_are_found_however_they_are_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Two sources that computed the same molecules, each in its own frame and order.
    first, other = make_structures(90, seed=1), make_structures(60, seed=2)
    copies = rewrite(first.slice(0, 30), seed=3, moved=True, turned=True, reordered=True)
    same = first.take(np.arange(30, 45))
    for batch, start in ((copies, 7000), (same, 8000)):
        batch.group = np.arange(len(batch), dtype=np.uint64) + np.uint64(start)
    workspace = _workspace(tmp_path, {"a": [first], "b": [other, copies, same]})
    leaks.run(["a", "b"], workspace=workspace)
    split_a = ExtractedSource(workspace, "a").splits()[:45]
    split_b = ExtractedSource(workspace, "b").splits()[60:]
    shared = (split_a == 0) & (split_b == 2)
    pair = _pairs(workspace)["a", "b"]
    assert pair["equivalent_geometry"] == int(shared[:30].sum()) > 0
    assert pair["same_geometry"] == int(shared[30:].sum()) > 0
    assert _pairs(workspace)["b", "b"]["equivalent_geometry"] == 0
    assert "moved, rotated, reordered or wrapped" in caplog.text
    assert "2 with common geometries that are written differently" in caplog.text


@pytest.mark.long
def test_cells_of_any_size_are_one_crystal_but_molecules_are_not(tmp_path: Path) -> None:
    # H2O2 and HO are two molecules; a crystal of the first has cells with twice the atoms too.
    def pairs(folder: Path, periodic: bool) -> dict[tuple[str, str], dict]:
        sources = {}
        for source, copies in (("a", 1), ("b", 2)):
            batch = make_structures(60, seed=copies, atoms=(4 * copies, 4 * copies + 1))
            batch.atomic_numbers = np.tile(np.uint8([1, 8, 1, 8]), len(batch) * copies)
            batch.pbc[:] = periodic
            batch.cell[:] = np.eye(3) * periodic
            sources[source] = [batch]
        workspace = _workspace(folder, sources)
        leaks.run(["a", "b"], workspace=workspace)
        return _pairs(workspace)

    found = pairs(tmp_path / "crystals", periodic=True)["a", "b"]
    assert found["same_composition"] == found["test_structures"] > 0
    assert [one["formula"] for one in found["most_frequent"]] == ["HO"]
    assert pairs(tmp_path / "molecules", periodic=False)["a", "b"]["same_composition"] == 0


@pytest.mark.long
def test_the_report_is_the_same_for_any_number_of_jobs(tmp_path: Path) -> None:
    batch = make_structures(60, seed=3)
    workspace = _workspace(tmp_path, {"a": [batch.slice(0, 31), batch.slice(31, 60)]})
    leaks.run(["a"], workspace=workspace)
    before = workspace.leaks.read_bytes()
    leaks.run(["a"], workspace=workspace, jobs=2)
    assert workspace.leaks.read_bytes() == before


def test_a_source_that_is_not_normalized_is_named(tmp_path: Path) -> None:
    workspace = Workspace(raw=tmp_path / "raw", results=tmp_path / "results")
    write_extracted(workspace, "a", make_structures(10, seed=3))
    with pytest.raises(ValueError, match=r"a/splits\.npz is missing; run mtlpar normalize"):
        leaks.run(["a"], workspace=workspace)


def test_overlap_counts_keys_and_not_their_members() -> None:
    key = np.array([4, 4, 4, 5, 5, 6, 6, 7], dtype=np.uint64)
    split = np.array([0, 2, 1, 0, 0, 0, DROPPED, 2], dtype=np.int8)
    assert count_overlap(key, split) == 1
