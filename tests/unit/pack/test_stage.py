"""Packs hold every structure of a split once, shuffled, and describe themselves."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import make_structures, write_extracted

from mtlpar.core.fields import FIELDS, SPLITS
from mtlpar.core.hashing import derive_seed, mix64
from mtlpar.core.paths import Workspace
from mtlpar.core.share import Share
from mtlpar.core.structures import StructureBatch
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import kept_runs, stage
from mtlpar.pack.settings import PackSettings
from mtlpar.store.bp import BpReader, write_bp
from mtlpar.store.extracted import ExtractedSource
from mtlpar.store.pack import Pack


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
    header = Pack.open(workspace.pack("qm7x", "train")).header
    assert set(header.references_ev) == {"H", "C", "O"}
    assert header.level_of_theory == "softened Coulomb repulsion"
    assert header.raw_files == {"made-up": "0" * 64}


def _bytes(workspace: Workspace) -> dict[str, bytes]:
    folder = workspace.pack("qm7x", "train").parent
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def _divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source in several parts, so that blocks are gathered from several runs; read only."""
    folder = tmp_path_factory.mktemp("divided")
    batch = make_structures(120, seed=1)
    workspace = Workspace(raw=folder / "raw", results=folder / "results")
    write_extracted(workspace, "qm7x", *(batch.slice(i, i + 30) for i in range(0, 120, 30)))
    settings = NormalizeSettings(val_fraction=0.2, test_fraction=0.2)
    normalize.run("qm7x", workspace=workspace, settings=settings, seed=0)
    return workspace.results


@pytest.fixture
def in_parts(_divided: Path, tmp_path: Path) -> Workspace:
    """A copy of that source, for one test to pack and to change."""
    return Workspace(raw=tmp_path / "raw", results=shutil.copytree(_divided, tmp_path / "results"))


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_RUN_STRUCTURES", 40)


_SETTINGS = PackSettings(block_structures=16)


@pytest.mark.long
@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("jobs", [2, 7])
def test_any_number_of_jobs_gives_the_same_bytes(in_parts: Workspace, jobs: int) -> None:
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)
    alone = _bytes(in_parts)
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0, jobs=jobs)
    assert _bytes(in_parts) == alone


@pytest.mark.usefixtures("small_runs")
def test_a_pack_gathered_from_runs_is_the_split_sorted_by_hash(in_parts: Workspace) -> None:
    # What the external shuffle must equal: the whole split in memory, sorted at once.
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=3)
    split = ExtractedSource(in_parts, "qm7x").splits()
    for index, name in enumerate(SPLITS):
        chosen = make_structures(120, seed=1).take(np.flatnonzero(split == index))
        keys = mix64(chosen.structure_id ^ np.uint64(derive_seed(3, "shuffle", "qm7x", name)))
        with BpReader(in_parts.pack("qm7x", name)) as reader:
            assert len(reader.header.blocks.num_structures) > 1
            packed = reader.read()
        expected = chosen.take(np.argsort(keys))
        for field in FIELDS.values():
            if field.packed:
                np.testing.assert_array_equal(
                    getattr(packed, field.name), getattr(expected, field.name), field.name
                )


def _sort(workspace: Workspace, count: int, *indices: int, seed: int = 0, code: str = "") -> None:
    for index in indices:
        share = Share(index, count)
        arguments = {"workspace": workspace, "settings": _SETTINGS, "seed": seed, "code": code}
        stage.sort_share("qm7x", share=share, **arguments)
        assert workspace.packed_share("qm7x", str(share)).is_file()


def _packs(workspace: Workspace) -> dict[str, bytes]:
    return {name: found for name, found in _bytes(workspace).items() if "share" not in name}


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_number_of_shares_gives_the_same_bytes_and_nothing_is_sorted_twice(
    in_parts: Workspace, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)
    alone = _bytes(in_parts)
    for split in SPLITS:
        in_parts.pack_manifest("qm7x", split).unlink()
    # Four runs: of seven shares three have nothing to do, and end well.
    _sort(in_parts, count, *reversed(range(count)))
    assert len(list(in_parts.sorted_runs("qm7x").glob("*.json"))) == 4
    monkeypatch.delattr(kept_runs, "write_run")
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)
    assert _packs(in_parts) == alone
    assert not in_parts.sorted_runs("qm7x").exists()


@pytest.mark.usefixtures("small_runs")
def test_shares_that_never_ran_are_sorted_by_the_job_that_packs(in_parts: Workspace) -> None:
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)
    alone = _bytes(in_parts)
    _sort(in_parts, 3, 1)
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)
    assert _packs(in_parts) == alone


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("change", ["bit", "end", "missing", "record"])
def test_a_run_that_was_damaged_between_two_jobs_is_sorted_again(
    in_parts: Workspace, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    # A wrong bit of a force would get a sound checksum in the pack, and no other check sees it.
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)
    alone = _bytes(in_parts)
    _sort(in_parts, 1, 0)
    run = in_parts.sorted_runs("qm7x") / "00002"
    content = bytearray(run.read_bytes())
    content[len(content) // 2] ^= 1
    if change == "record":
        run.with_suffix(".json").write_text("{")
    elif change == "missing":
        run.unlink()
    else:
        run.write_bytes(content if change == "bit" else content[:-1])
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)
    assert _packs(in_parts) == alone
    assert any("00002" in message for message in caplog.messages)


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("change", [{"seed": 1}, {"code": "other"}, "splits"])
def test_runs_that_were_sorted_otherwise_are_not_used(
    in_parts: Workspace, change: dict[str, Any] | str
) -> None:
    _sort(in_parts, 1, 0)
    options: dict[str, Any] = {"seed": 0}
    if isinstance(change, dict):
        options |= change
    else:
        settings = NormalizeSettings(val_fraction=0.3, test_fraction=0.2)
        normalize.run("qm7x", workspace=in_parts, settings=settings, seed=0)
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, **options)
    mixed = _packs(in_parts)
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, **options)
    assert mixed == _packs(in_parts)


def test_columns_alike_in_a_whole_split_are_attributes_and_others_are_not(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    batch.spin[:] = 1
    # One charged structure lies in one split only: the others must not lose or gain by it.
    batch.charge[7] = -1
    batch.stress[7, 0] = -0.0  # equal to 0, but not the same to the last bit
    workspace = _pack(tmp_path, batch)
    split = ExtractedSource(workspace, "qm7x").splits()[7]
    for index, name in enumerate(SPLITS):
        with BpReader(workspace.pack("qm7x", name)) as reader:
            constants, packed = reader.header.constants, reader.read()
        assert constants["spin"] == 1
        assert constants["cell"] == np.zeros((3, 3)).tolist()
        assert ("charge" in constants) == (index != split)
        assert ("stress" in constants) == (index != split)
        assert np.signbit(packed.stress).sum() == (index == split)
        assert packed.spin.tolist() == [1] * len(packed)
        assert packed.charge.sum() == (-1 if index == split else 0)


# Packs in another process, which kills itself before its n-th run, block or manifest.
_KILLED = """
import os, signal, sys
from pathlib import Path
from mtlpar.core.paths import Workspace
from mtlpar.pack import kept_runs, stage
from mtlpar.pack.settings import PackSettings

left = int(sys.argv[2])

def count_down(function):
    def counted(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return counted

kept_runs.write_run = count_down(kept_runs.write_run)
stage.gather_block = count_down(stage.gather_block)
stage.Pack.open = count_down(stage.Pack.open)
stage._RUN_STRUCTURES = 40
folder = Path(sys.argv[1])
workspace = Workspace(raw=folder / "raw", results=folder / "results")
stage.run("qm7x", workspace=workspace, settings=PackSettings(block_structures=16), seed=0)
"""


@pytest.mark.long
@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("survived_steps", [2, 7])
def test_a_killed_run_leaves_nothing_that_the_next_one_keeps(
    in_parts: Workspace, tmp_path: Path, survived_steps: int
) -> None:
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)
    undisturbed = _bytes(in_parts)
    process = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path), str(survived_steps)], check=False
    )
    assert process.returncode == -signal.SIGKILL
    folder = in_parts.pack("qm7x", "train").parent
    assert list(folder.glob(".*.tmp")), "the kill came too late to leave anything behind"
    assert not in_parts.pack_manifest("qm7x", "test").exists()
    stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)
    assert _bytes(in_parts) == undisturbed
    assert not list(folder.glob(".*.tmp"))


def test_a_disk_without_room_is_refused_before_work_is_lost(
    in_parts: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"has 0\.00 GB free, expected .* two copies"):
        stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)
    assert _bytes(in_parts) == {}


def test_a_damaged_part_is_named_and_leaves_no_pack(in_parts: Workspace) -> None:
    part = in_parts.extracted_folder("qm7x") / "part-00002.bp" / "data.0"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 4
    part.write_bytes(content)
    with pytest.raises(ValueError, match=r"part-00002\.bp is damaged: column"):
        stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)
    assert _bytes(in_parts) == {}


def test_splits_of_another_extraction_are_refused(in_parts: Workspace) -> None:
    # As many structures as before, in another order: rows would get each other's splits, groups lie
    # in train and test, and nothing else would notice.
    structures = [BpReader(path).read() for path in ExtractedSource(in_parts, "qm7x").part_paths]
    write_extracted(in_parts, "qm7x", *structures[::-1])
    with pytest.raises(ValueError, match=r"of other extracted structures.*run mtlpar normalize"):
        stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)


@pytest.mark.parametrize("kept", [None, slice(0), slice(50), slice(300), slice(1, None)])
def test_splits_that_are_missing_or_damaged_are_named(
    in_parts: Workspace, kept: slice | None
) -> None:
    path = in_parts.splits("qm7x")
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[kept])
    # NumPy takes what is no archive for a pickle, and advises to load it unsafely.
    words = r"splits\.npz is (missing|damaged \((?!.*pickle).*); run .*normalize"
    with pytest.raises(ValueError, match=words):
        stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)


def test_a_part_of_another_extraction_is_refused(in_parts: Workspace) -> None:
    folder = in_parts.extracted_folder("qm7x")
    shutil.rmtree(folder / "part-00001.bp")
    batch = make_structures(29, seed=4)
    write_bp(
        folder / "part-00001.bp",
        [batch],
        num_structures=29,
        num_atoms=batch.total_atoms,
        attributes={},
    )
    with pytest.raises(
        ValueError, match=r"part-00001\.bp is not the part of that name.*\(29, .*extract again"
    ):
        stage.run("qm7x", workspace=in_parts, settings=_SETTINGS, seed=0)


@pytest.mark.parametrize(
    ("key", "edit"),
    [
        ("energies_ev", lambda found: {symbol: energy + 0.1 for symbol, energy in found.items()}),
        ("level_of_theory", lambda text: f"{text}, corrected"),
        ("leaky", lambda leaky: not leaky),
        (
            "train_statistics",
            lambda found: {
                name: 1.5 * value if isinstance(value, float) else value
                for name, value in found.items()
            },
        ),
    ],
)
def test_references_that_somebody_edited_are_refused(
    key: str, edit: Callable[[Any], Any], tmp_path: Path
) -> None:
    # Packs and models repeat what they say. Each edit leaves a sound record of the right data.
    workspace = _pack(tmp_path, make_structures(30, seed=1))
    path = workspace.references("qm7x")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, key: edit(content[key])}))
    with pytest.raises(ValueError, match=r"references\.json is damaged or was edited by hand"):
        stage.run("qm7x", workspace=workspace, settings=PackSettings(), seed=0)
