"""Copies that are written differently are dropped and counted, or stay in one split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import write
from helpers import make_structures, rewrite, write_extracted

from mtlpar.cli import main
from mtlpar.core.fields import FIELDS, SPLITS
from mtlpar.core.files import read_json, write_json
from mtlpar.core.ledger import Ledger
from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.normalize import leaks, stage
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.sources import registry
from mtlpar.store.bp import BpReader, write_bp
from mtlpar.store.extracted import ExtractedSource

SETTINGS = NormalizeSettings(val_fraction=0.2, test_fraction=0.2)
EVERY_WAY = {"moved": True, "turned": True, "reordered": True, "wrapped": True}
# Beyond what copies of one geometry may differ by.
OTHER_EV_PER_ATOM = 0.1


def _run(
    folder: Path, *batches: StructureBatch, given_splits: bool = False, **changes: object
) -> Workspace:
    workspace = Workspace(raw=folder / "raw", results=folder / "results")
    write_extracted(workspace, "own", *batches, given_splits=given_splits)
    settings = SETTINGS.model_copy(update=changes)
    stage.run("own", workspace=workspace, settings=settings, seed=0)
    return workspace


def _splits(workspace: Workspace) -> np.ndarray:
    return ExtractedSource(workspace, "own").splits()


def _copies(batch: StructureBatch, count: int, *, seed: int = 0) -> StructureBatch:
    """The first structures, written differently, in groups of their own."""
    copies = rewrite(batch.slice(0, count), seed=seed, **EVERY_WAY)
    copies.group = np.arange(count, dtype=np.uint64) + np.uint64(7000 + 100 * seed)
    return copies


def test_copies_written_differently_are_dropped_under_a_reason_of_their_own(
    tmp_path: Path,
) -> None:
    batch = make_structures(60, seed=1)
    # Two bit for bit as well: each is counted once, under the reason that is plainer.
    workspace = _run(tmp_path, batch, batch.take([3, 5]), _copies(batch, 20))
    ledger = Ledger.read(workspace.ledger("own"))
    assert ledger.dropped == {"duplicate": 2, "equivalent_duplicate": 20}
    checks = read_json(workspace.checks("own"))
    assert checks["in_several_splits"] == {"groups": 0, "structures": 0, "geometries": 0}
    assert checks["contradicting_equivalents"] == 0
    assert not ledger.is_leaky


def test_of_copies_the_one_with_most_labels_stays_in_any_order(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    copies = [_copies(batch, 20, seed=seed) for seed in (0, 1)]
    # The group of the poorer has the smaller hash, and energies are equal to the last bit.
    copies[0].forces_mask[:] = 0
    copies[1].group[:] = copies[0].group
    batch.forces_mask[:20] = 0
    forward = _splits(_run(tmp_path / "a", batch, *copies))
    backward = _splits(_run(tmp_path / "b", copies[1], copies[0], batch))
    assert (forward[:20] == -1).all()
    assert (forward[60:80] == -1).all()
    assert (forward[80:] >= 0).all()
    np.testing.assert_array_equal(
        backward, np.concatenate([forward[80:], forward[60:80], forward[:60]])
    )


@pytest.mark.parametrize("split", ["groups", "frames", "blocks"])
def test_copies_with_other_energies_stay_in_one_split(tmp_path: Path, split: str, caplog) -> None:
    batch = make_structures(120, seed=1)
    batch.group[:] = np.arange(120) // 12
    copies = _copies(batch, 60)
    # As many groups as those that are copied, in another order: joined in pairs.
    copies.group = batch.group[:60][::-1] + np.uint64(500)
    copies.energy += OTHER_EV_PER_ATOM * copies.num_atoms
    workspace = _run(tmp_path, batch, copies, split=split)
    splits = _splits(workspace)
    assert (splits >= 0).all()
    np.testing.assert_array_equal(splits[120:], splits[:60])
    assert set(splits.tolist()) == {0, 1, 2}
    checks = read_json(workspace.checks("own"))
    assert checks["contradicting_equivalents"] == 60
    assert checks["in_several_splits"]["geometries"] == 0
    assert "60 geometries several times" in caplog.text


def test_energies_that_differ_by_less_than_a_grid_does_are_no_contradiction(
    tmp_path: Path,
) -> None:
    batch = make_structures(60, seed=1)
    copies = _copies(batch, 20)
    copies.energy += 5e-4 * copies.num_atoms
    ledger = Ledger.read(_run(tmp_path, batch, copies).ledger("own"))
    assert ledger.dropped == {"equivalent_duplicate": 20}


def test_what_is_left_of_copies_is_dealt_to_every_split(tmp_path: Path) -> None:
    # Four trajectories and a restart of each: only groups that lose no frame fill the splits.
    batch = make_structures(40, seed=1)
    batch.group[:] = np.arange(40) // 10
    copies = _copies(batch, 40)
    copies.group = batch.group + np.uint64(10)
    splits = _splits(_run(tmp_path, batch, copies))
    assert [int((splits == index).sum()) % 10 for index in range(3)] == [0, 0, 0]
    assert set(splits.tolist()) == {-1, 0, 1, 2}


def test_official_splits_that_share_contradicting_copies_are_counted(tmp_path: Path) -> None:
    # They are the source's to decide, and may not be joined; but nobody shall overlook it.
    batch = make_structures(60, seed=1)
    batch.official_split = (np.arange(60) // 3 % 3).astype(np.int8)
    copies = _copies(batch, 9)
    copies.energy += OTHER_EV_PER_ATOM * copies.num_atoms
    copies.official_split[:] = 2
    workspace = _run(tmp_path, batch, copies)
    np.testing.assert_array_equal(_splits(workspace)[60:], 2)
    checks = read_json(workspace.checks("own"))
    # Three of the nine are in test themselves.
    assert checks["in_several_splits"] == {"groups": 0, "structures": 0, "geometries": 6}
    assert Ledger.read(workspace.ledger("own")).is_leaky


def test_given_splits_are_kept_and_their_leaks_counted(tmp_path: Path) -> None:
    batch, copies = make_structures(60, seed=1), None
    batch.official_split = (np.arange(60) % 3).astype(np.int8)
    copies = _copies(batch, 30)
    copies.official_split[:] = 2
    workspace = _run(tmp_path, batch, copies, given_splits=True)
    assert (_splits(workspace) >= 0).all()
    found = read_json(workspace.checks("own"))["in_several_splits"]
    assert (found["structures"], found["geometries"]) == (0, 20)
    leaks.run(["own"], workspace=workspace)
    (pair,) = read_json(workspace.leaks)["pairs"]
    assert (pair["same_geometry"], pair["equivalent_geometry"]) == (0, 10)


def test_parts_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    # Their copies would be found by nobody, and the books say that there are none.
    batch = make_structures(60, seed=1)
    workspace = Workspace(raw=tmp_path / "raw", results=tmp_path / "results")
    write_extracted(workspace, "own", batch)
    part = workspace.extracted_folder("own") / "part-00000.bp"
    write_bp(
        part,
        [batch],
        num_structures=60,
        num_atoms=batch.total_atoms,
        attributes={},
        fields=[name for name in FIELDS if name != "fingerprint"],
    )
    manifest = json.loads(workspace.extracted_manifest("own").read_text())
    manifest["parts"][0]["data_digest"] = BpReader(part).data_digest
    workspace.extracted_manifest("own").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"part-00000\.bp holds no fingerprints.*mtlpar extract"):
        stage.run("own", workspace=workspace, settings=SETTINGS, seed=0)


def _frames() -> list[Atoms]:
    """Sixty geometries of three molecules, each a trajectory of its own, then all centred."""
    frames = []
    for index in range(60):
        atoms = molecule(("CH4", "H2O", "CH3OH")[index % 3])
        atoms.rattle(0.05, seed=index)
        atoms.calc = EMT()
        atoms.info["trajectory"] = f"run{index}"
        atoms.get_forces()
        frames.append(atoms)
    for index, atoms in enumerate(frames[:60]):
        again = atoms.copy()
        again.rotate(37 + index, "z")
        again.positions -= again.get_center_of_mass()
        again.calc = EMT()
        again.info["trajectory"] = f"restart{index}"
        again.get_forces()
        frames.append(again[np.random.default_rng(index).permutation(len(again))])
        frames[-1].calc = EMT()
        frames[-1].get_forces()
    return frames


@pytest.mark.long
def test_a_run_and_its_centred_restart_share_nothing_across_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As users hand it in: under other names, so that groups do not keep the copies together.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror").mkdir()
    write(tmp_path / "mirror" / "runs.xyz", _frames(), format="extxyz")
    custom = {
        "format": "extxyz",
        "files": ["runs.xyz"],
        "level_of_theory": "EMT",
        "group_key": "trajectory",
    }
    config = {
        "sources": ["own"],
        "custom_sources": {"own": custom},
        "download": {"mirrors": ["mirror"]},
        "normalize": {"val_fraction": 0.15, "test_fraction": 0.15},
        "models": {"m": {"branches": {"own": ["own"]}}},
    }
    write_json(tmp_path / "config.yaml", config)
    try:
        for command in ("download", "extract", "normalize", "pack", "leaks"):
            assert main([command]) == 0
    finally:
        registry.define_custom_sources({})
    ledger = read_json(tmp_path / "results" / "ledger" / "own.json")
    assert ledger["dropped"] == {"equivalent_duplicate": 60}
    workspace = Workspace(raw=tmp_path / "data" / "raw", results=tmp_path / "results")
    energies = [
        np.round(BpReader(workspace.pack("own", split)).read_column("energy"), 6)
        for split in SPLITS
    ]
    assert len(np.unique(np.concatenate(energies))) == sum(map(len, energies)) == 60
