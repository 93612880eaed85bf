"""The normalize stage closes the books and looks at train only, however it is run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import make_structures, write_extracted

from mtlpar.core import processes
from mtlpar.core.files import read_json, write_json
from mtlpar.core.ledger import Ledger
from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.normalize import stage
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.store.extracted import ExtractedSource

SETTINGS = NormalizeSettings(val_fraction=0.2, test_fraction=0.2)
PRODUCTS = ("splits", "references", "checks", "ledger")


def _prepare(folder: Path, *batches: StructureBatch) -> Workspace:
    workspace = Workspace(raw=folder / "raw", results=folder / "results")
    write_extracted(workspace, "ani1x", *batches)
    return workspace


def _run(
    folder: Path,
    *batches: StructureBatch,
    settings: NormalizeSettings = SETTINGS,
    jobs: int = 1,
) -> Workspace:
    workspace = _prepare(folder, *batches)
    stage.run("ani1x", workspace=workspace, settings=settings, seed=0, jobs=jobs)
    return workspace


def _bytes(workspace: Workspace, *products: str) -> dict[str, bytes]:
    return {name: getattr(workspace, name)("ani1x").read_bytes() for name in products}


def test_every_row_ends_in_exactly_one_place(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    workspace = _run(tmp_path, batch, batch.take([3, 3, 10]))
    ledger = Ledger.read(workspace.ledger("ani1x"))
    ledger.check("ani1x")
    assert ledger.rows == 63
    assert ledger.dropped == {"duplicate": 3}


def test_labels_outside_train_do_not_touch_the_references(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    before = _run(tmp_path / "a", batch)
    split = ExtractedSource(before, "ani1x").splits()
    batch.energy[split != 0] += 1.0 * batch.num_atoms[split != 0]
    after = _run(tmp_path / "b", batch)
    assert before.references("ani1x").read_bytes() == after.references("ani1x").read_bytes()


@pytest.mark.long
def test_jobs_and_partition_do_not_change_a_byte(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1, strength=2.7)
    parts = [batch.slice(0, 7), batch.slice(7, 8), batch.slice(8, 60)]
    one, two = _run(tmp_path / "a", *parts), _run(tmp_path / "b", *parts, jobs=2)
    assert _bytes(one, *PRODUCTS) == _bytes(two, *PRODUCTS)
    # In one part, or in other files, only lists of files and digests of them differ.
    whole = _run(tmp_path / "c", batch)
    assert _bytes(whole, "references") == _bytes(one, "references")
    splits = [ExtractedSource(workspace, "ani1x").splits() for workspace in (whole, one)]
    np.testing.assert_array_equal(*splits)


def test_seven_jobs_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # More jobs than parts. Threads stand in for processes, which take seconds to start.
    batch = make_structures(60, seed=1, strength=2.7)
    parts = [batch.slice(start, start + 12) for start in range(0, 60, 12)]
    one = _run(tmp_path / "a", *parts)
    monkeypatch.setattr(
        processes, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(jobs)
    )
    seven = _run(tmp_path / "b", *parts, jobs=7)
    assert _bytes(seven, *PRODUCTS) == _bytes(one, *PRODUCTS)


def test_the_order_of_the_files_changes_no_reference_and_no_destination(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1, strength=2.7)
    # A duplicate in another group, so that the first in file order must not be the one that stays.
    twin = batch.take([0])
    twin.group = twin.group + np.uint64(500)
    parts = [batch.slice(0, 21), batch.slice(21, 60), twin]
    forward, backward = _run(tmp_path / "a", *parts), _run(tmp_path / "b", *parts[::-1])
    assert _bytes(forward, "references") == _bytes(backward, "references")
    split = ExtractedSource(forward, "ani1x").splits()
    cut = np.split(split, [21, 60])
    np.testing.assert_array_equal(
        ExtractedSource(backward, "ani1x").splits(), np.concatenate(cut[::-1])
    )
    totals = [Ledger.total([Ledger.read(w.ledger("ani1x"))]) for w in (forward, backward)]
    assert totals[0] == totals[1]


def test_the_ledger_accounts_for_each_raw_file(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    workspace = _prepare(tmp_path, batch.slice(0, 20), batch.take([3, 5]), batch.slice(20, 60))
    # As the extract stage would say if the first file had held three more rows, without forces.
    manifest = read_json(workspace.extracted_manifest("ani1x"))
    manifest["files"][0] |= {"rows": 23, "dropped": {"missing_forces": 3}}
    write_json(workspace.extracted_manifest("ani1x"), manifest)
    stage.run("ani1x", workspace=workspace, settings=SETTINGS, seed=0)
    ledger = Ledger.read(workspace.ledger("ani1x"))
    ledger.check("ani1x")
    assert ledger.rows == 65
    assert [file.rows for file in ledger.files.values()] == [23, 2, 40]
    assert ledger.dropped == {"missing_forces": 3, "duplicate": 2}
    split = ExtractedSource(workspace, "ani1x").splits()
    for file, part in zip(ledger.files.values(), np.split(split, [20, 22]), strict=True):
        assert list(file.splits.values()) == [int((part == index).sum()) for index in range(3)]


def test_a_manifest_that_lost_a_row_is_refused(tmp_path: Path) -> None:
    workspace = _prepare(tmp_path, make_structures(60, seed=1))
    manifest = read_json(workspace.extracted_manifest("ani1x"))
    manifest["files"][0]["rows"] = 61
    write_json(workspace.extracted_manifest("ani1x"), manifest)
    with pytest.raises(ValueError, match="kept 61 rows by its manifest, but its parts hold 60"):
        stage.run("ani1x", workspace=workspace, settings=SETTINGS, seed=0)


def test_splits_by_frames_deal_groups_out_and_say_so(tmp_path: Path) -> None:
    batch = make_structures(300, seed=1)
    frames = SETTINGS.model_copy(update={"split": "frames"})
    workspace = _run(tmp_path, batch, settings=frames)
    checks = read_json(workspace.checks("ani1x"))
    assert checks["in_several_splits"]["groups"] > 50
    assert checks["in_several_splits"]["structures"] == 0
    assert Ledger.read(workspace.ledger("ani1x")).is_leaky
    assert read_json(workspace.references("ani1x"))["split_by"] == "frames"


def test_a_split_that_leaks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever makes the splits: the finished ones are looked at.
    monkeypatch.setattr(stage, "assign_splits", lambda unit, *_, **__: np.arange(60) % 3)
    with pytest.raises(ValueError, match=r"ani1x: 20 groups lie in more than one split"):
        _run(tmp_path, make_structures(60, seed=1))


def test_isolated_atoms_are_the_references_and_must_be_complete(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace(raw=tmp_path / "raw", results=tmp_path / "results")
    energies = {"H": -13.6, "C": -1029.4, "O": -2041.8}
    write_extracted(workspace, "own", make_structures(60, seed=1), isolated_atoms_ev=energies)
    with caplog.at_level("INFO"):
        stage.run("own", workspace=workspace, settings=SETTINGS, seed=0)
    references = read_json(workspace.references("own"))
    assert references["taken_from"] == "isolated atoms"
    assert references["energies_ev"] == energies
    assert "with model.head.isolated_atoms: reference a model predicts them" in caplog.text
    del energies["O"]
    write_extracted(workspace, "own", make_structures(60, seed=1), isolated_atoms_ev=energies)
    with pytest.raises(ValueError, match="own: no isolated atom of O, which the source holds"):
        stage.run("own", workspace=workspace, settings=SETTINGS, seed=0)


def test_given_references_are_used_and_must_be_complete(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    given = {"H": -13.0, "C": -1030.0, "O": -2040.0}
    settings = SETTINGS.model_copy(update={"reference_energies": {"ani1x": given}})
    content = read_json(_run(tmp_path / "a", batch, settings=settings).references("ani1x"))
    assert content["energies_ev"] == given
    assert content["fitted_on"] is None
    file = tmp_path / "given.json"
    # With the mark of some editors, which Python's reader of JSON refuses.
    file.write_text(json.dumps(given), encoding="utf-8-sig")
    from_file = SETTINGS.model_copy(update={"reference_energies": {"ani1x": file}})
    assert read_json(_run(tmp_path / "b", batch, settings=from_file).references("ani1x")) == content
    poor = SETTINGS.model_copy(update={"reference_energies": {"ani1x": {"H": -13.0}}})
    with pytest.raises(ValueError, match=r"reference_energies\.ani1x lacks C, O, which .* got H"):
        _run(tmp_path / "c", batch, settings=poor)


@pytest.mark.parametrize("energies", [{"Xx": 1.0}, {}])
def test_given_references_name_elements(energies: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"reference_energies\.ani1x: "):
        NormalizeSettings(reference_energies={"ani1x": energies})


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (-1e12, r"part-00001\.bp: total energies in eV: .*got -1e\+12"),
        # Such references are far off for the good ones too.
        (1e7, r"part-0000[01]\.bp: squares of energies per atom .*moved the references"),
    ],
)
def test_a_label_too_large_to_be_summed_is_named_with_its_part(
    tmp_path: Path, energy: float, message: str
) -> None:
    # Extract drops the first, but parts of an earlier version may have it. Half are set, because
    # only those of train count.
    good, bad = make_structures(40, seed=1), make_structures(40, seed=2)
    bad.energy[::2] = energy
    with pytest.raises(ValueError, match=f"ani1x/{message}"):
        _run(tmp_path, good, bad)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # As users write by hand, and as they take YAML for JSON.
        ("{'H': -13}", r"given\.json: expected a JSON file"),
        ("H: -13", r"given\.json: expected a JSON file"),
        # Python would take these for numbers.
        ('{"H": true, "C": -1030}', r"given\.json: expected energies in eV, got {'H': True}"),
        ('{"H": NaN}', "got {'H': nan}"),
        ('{"H": "x"}', "got {'H': 'x'}"),
        ("[-13]", "expected reference energies in eV by chemical symbol"),
        (None, r"expected a JSON file .*No such file"),
    ],
)
def test_a_wrong_file_of_references_is_told_and_costs_no_results(
    tmp_path: Path, text: str | None, said: str
) -> None:
    workspace = _run(tmp_path, make_structures(60, seed=1))
    before = _bytes(workspace, *PRODUCTS)
    file = tmp_path / "given.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    settings = SETTINGS.model_copy(update={"reference_energies": {"ani1x": file}})
    with pytest.raises(ValueError, match=said) as error:
        stage.run("ani1x", workspace=workspace, settings=settings, seed=0)
    # The file is the user's: to remove it would be bad advice.
    assert "remove" not in str(error.value)
    assert _bytes(workspace, *PRODUCTS) == before


@pytest.mark.parametrize(
    ("offset", "told"), [(0.0, None), (4.0, "two groups 3.79 eV"), (500.0, "spread by")]
)
def test_several_levels_in_one_source_are_noticed_though_references_are_fitted_to_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, offset: float, told: str | None
) -> None:
    # 4 eV/atom between two groups of molecules of random composition leave a gap. 500 eV/atom on
    # every molecule that has oxygen do not: references make of it what they can.
    batch = make_structures(90, seed=1)
    second = np.arange(90) // 3 % 2 == 0
    if offset > 100:
        second = np.add.reduceat(batch.atomic_numbers == 8, batch.offsets[:-1]) > 0
    batch.energy[second] += offset * batch.num_atoms[second]
    _run(tmp_path, batch)
    warnings = [record.getMessage() for record in caplog.records if "levels" in record.getMessage()]
    assert len(warnings) == (told is not None)
    assert told is None or told in warnings[0]


def test_energies_that_stand_apart_are_listed_and_kept(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    split = ExtractedSource(_run(tmp_path / "a", batch), "ani1x").splits()
    victim = int(np.flatnonzero(split == 2)[0])
    batch.energy[victim] += 500.0
    workspace = _run(tmp_path / "b", batch.slice(0, 1), batch.slice(1, 60))
    outliers = read_json(workspace.checks("ani1x"))["energy_outliers"]
    assert outliers["count"] == 1
    assert outliers["worst"][0]["structure_id"] == f"{batch.structure_id[victim]:016x}"
    assert outliers["worst"][0]["file"] == ("made-up" if victim == 0 else "made-up-1")
    assert Ledger.read(workspace.ledger("ani1x")).dropped == {}


KILLED = """
import sys
from pathlib import Path
from mtlpar.core.paths import Workspace
from mtlpar.normalize import stage
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.store.extracted import ExtractedSource
settings = NormalizeSettings(val_fraction=0.2, test_fraction=0.2)
folder = Path(sys.argv[1])
workspace = Workspace(raw=folder / "raw", results=folder / "results")
print("ready", flush=True)
while True:
    stage.run("ani1x", workspace=workspace, settings=settings, seed=0)
"""


@pytest.mark.long
def test_killed_at_any_moment_and_run_again_it_writes_the_same_bytes(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    workspace = _run(tmp_path, batch)
    expected = _bytes(workspace, *PRODUCTS)
    rng = np.random.default_rng(0)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(3):
        # The stage runs over and over, so that the blow falls at any of its moments.
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0.01, 0.2))
            process.send_signal(signal.SIGKILL)
        ledger = workspace.ledger("ani1x")
        # The ledger is written last: where it is, all else is whole.
        assert not ledger.exists() or _bytes(workspace, *PRODUCTS) == expected
        stage.run("ani1x", workspace=workspace, settings=SETTINGS, seed=0)
        assert _bytes(workspace, *PRODUCTS) == expected
        assert not list(workspace.results.rglob(".*.tmp"))


def test_element_seen_only_outside_train_is_dropped_and_counted(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    split = ExtractedSource(_run(tmp_path / "a", batch), "ani1x").splits()
    victim = int(np.flatnonzero(split == 2)[0])
    batch.atomic_numbers[batch.offsets[victim]] = 92
    ledger = Ledger.read(_run(tmp_path / "b", batch).ledger("ani1x"))
    assert ledger.dropped == {"element_not_in_train": 1}


def test_statistics_are_those_of_predicting_zero_on_train(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    workspace = _run(tmp_path, batch)
    train = batch.take(np.flatnonzero(ExtractedSource(workspace, "ani1x").splits() == 0))
    statistics = read_json(workspace.references("ani1x"))["train_statistics"]
    np.testing.assert_allclose(
        statistics["force_mean_abs_ev_per_angstrom"], np.abs(train.forces).mean(), rtol=1e-6
    )
