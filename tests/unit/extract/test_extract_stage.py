import bz2
import json
import logging

import numpy as np
import pytest
from helpers import write_raw_manifest

from mtlpar.core.files import file_digest, read_json
from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.extract.settings import ExtractSettings
from mtlpar.extract.stage import run
from mtlpar.store.bp import BpReader


@pytest.fixture
def workspace(tmp_path):
    return Workspace(raw=tmp_path / "raw", results=tmp_path / "results")


def entry(energy, *, force=0.125, elements=("Na", "Cl")):
    sites = [
        {
            "species": [{"element": element, "occu": 1}],
            "xyz": [float(index), energy, 0.0],
            "properties": {"forces": [0.0, 0.0, force]},
        }
        for index, element in enumerate(elements)
    ]
    matrix = [[4.0, 0.0, 0.0], [0.0, 5.0, 0.0], [1.0, 0.0, 6.0]]
    return {
        "structure": {"lattice": {"matrix": matrix}, "sites": sites},
        "data": {"energy_total": energy},
    }


@pytest.fixture
def raw(workspace):
    """Put Alexandria files with the given entries into the raw folder, with their manifest."""

    def write(*files):
        folder = workspace.raw_folder("alexandria")
        folder.mkdir(parents=True, exist_ok=True)
        listed = []
        for index, entries in enumerate(files):
            path = folder / f"alexandria_{index:03d}.json.bz2"
            content = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
            path.write_bytes(bz2.compress(content))
            listed.append(
                {
                    "name": path.name,
                    "bytes": path.stat().st_size,
                    "sha256": file_digest(path),
                    "url": "",
                    "kind": "data",
                }
            )
        listed.append({"name": "x", "bytes": 0, "sha256": "0" * 64, "url": "", "kind": "sidecar"})
        write_raw_manifest(workspace, "alexandria", listed)

    return write


def extract(workspace, *, jobs=1, **settings):
    run("alexandria", workspace=workspace, settings=ExtractSettings(**settings), jobs=jobs)
    manifest = read_json(workspace.extracted_manifest("alexandria"))
    parts = []
    for part in manifest["parts"]:
        with BpReader(workspace.extracted_folder("alexandria") / part["name"]) as reader:
            assert (len(reader), reader.num_atoms) == (part["num_structures"], part["num_atoms"])
            parts.append(reader.read())
    return manifest, StructureBatch.concatenate(parts)


def many(start, count):
    # Elements and sizes vary, so that atoms given to the wrong structure would show.
    return [
        entry(float(start + index), elements=("Na", "Cl", "O")[: 1 + index % 3])
        for index in range(count)
    ]


def test_parts_follow_the_raw_files_and_hold_what_the_manifest_says(workspace, raw):
    raw(many(0, 5), many(50, 4))
    manifest, batch = extract(workspace, part_structures=2)
    assert [part["name"] for part in manifest["parts"]] == [
        "alexandria_000-00000-00000.bp",
        "alexandria_000-00000-00001.bp",
        "alexandria_000-00000-00002.bp",
        "alexandria_001-00000-00000.bp",
        "alexandria_001-00000-00001.bp",
    ]
    assert [part["num_structures"] for part in manifest["parts"]] == [2, 2, 1, 2, 2]
    assert batch.energy.tolist() == [0, 1, 2, 3, 4, 50, 51, 52, 53]
    assert batch.num_atoms.tolist() == [1, 2, 3, 1, 2, 1, 2, 3, 1]
    np.testing.assert_array_equal(
        batch.positions[:, 1], np.repeat(batch.energy, batch.num_atoms).astype(np.float32)
    )
    assert manifest["source"] == "alexandria"
    assert manifest["level_of_theory"].startswith("PBE")
    assert manifest["rows"] == 9


def test_part_size_changes_the_files_and_not_the_content(workspace, raw):
    raw(many(0, 7))
    whole = extract(workspace)[1].columns()
    for size in (1, 3, 7, 8):
        columns = extract(workspace, part_structures=size)[1].columns()
        for name, column in whole.items():
            np.testing.assert_array_equal(column, columns[name], err_msg=f"{name}, {size}")


@pytest.mark.long
def test_the_result_does_not_depend_on_the_number_of_processes(workspace, raw):
    raw(many(0, 5), many(100, 1), many(200, 8))
    one, batch_one = extract(workspace, part_structures=3)
    two, batch_two = extract(workspace, part_structures=3, jobs=2)
    assert one == two
    assert batch_one.structure_id.tolist() == batch_two.structure_id.tolist()


def test_rows_dropped_by_reader_and_checks_are_counted_per_file_and_in_all(workspace, raw):
    raw(
        [entry(1.0), entry(2.0, force=None), entry(3.0, force=1001.0)],
        [entry(4.0), entry(5.0, force=None), entry(6.0, force=1e300)],
    )
    # 1e300 does not fit float32: it becomes infinite, which is a reason and no crash.
    manifest, batch = extract(workspace)
    assert batch.energy.tolist() == [1, 4]
    assert [file["dropped"] for file in manifest["files"]] == [
        {"force_too_large": 1, "missing_forces": 1},
        {"missing_forces": 1, "non_finite_forces": 1},
    ]
    assert [file["rows"] for file in manifest["files"]] == [3, 3]
    assert manifest["rows"] == len(batch) + sum(manifest["dropped"].values()) == 6
    assert manifest["dropped"] == {
        "force_too_large": 1,
        "missing_forces": 2,
        "non_finite_forces": 1,
    }


def test_parts_of_an_earlier_run_do_not_stay(workspace, raw):
    raw(many(0, 6))
    extract(workspace, part_structures=1)
    manifest, _ = extract(workspace, part_structures=4)
    names = sorted(path.name for path in workspace.extracted_folder("alexandria").glob("*"))
    assert names == sorted(["manifest.json", *(part["name"] for part in manifest["parts"])])


def test_a_part_says_where_it_is_from(workspace, raw):
    raw(many(0, 2))
    extract(workspace)
    folder = workspace.extracted_folder("alexandria")
    with BpReader(folder / "alexandria_000-00000-00000.bp") as reader:
        header = reader.header
    assert header.raw_file == "alexandria_000.json.bz2"
    assert header.source == "alexandria"
    path = workspace.raw_folder("alexandria") / "alexandria_000.json.bz2"
    assert header.raw_sha256 == file_digest(path)


def test_a_file_without_usable_structures_is_an_error_only_if_all_are(workspace, raw, caplog):
    unusable = [entry(1.0, force=None)]
    raw(unusable, many(0, 2))
    with caplog.at_level(logging.WARNING):
        _, batch = extract(workspace)
    assert len(batch) == 2
    assert "alexandria_000.json.bz2 holds no usable structure" in caplog.text
    raw(unusable, unusable)
    with pytest.raises(ValueError, match=r"no usable structure .*'missing_forces': 1"):
        extract(workspace)
    assert not workspace.extracted_manifest("alexandria").exists()


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_damaged_file_stops_the_stage_and_leaves_no_manifest(workspace, raw, jobs):
    raw(many(0, 2), b'{"entries": [{"structure"')
    with pytest.raises(ValueError, match=r"alexandria_001\.json\.bz2 is damaged or cut off"):
        extract(workspace, jobs=jobs)
    assert not workspace.extracted_manifest("alexandria").exists()


def test_one_line_per_file_says_what_became_of_it(workspace, raw, caplog):
    raw([entry(1.0), entry(2.0, force=None)], many(0, 3))
    with caplog.at_level(logging.INFO):
        extract(workspace)
    stage = [record for record in caplog.records if record.name == "mtlpar.extract.stage"]
    lines = [record.getMessage() for record in stage]
    assert len(lines) == 2
    assert "alexandria_000.json.bz2: 2 rows, 1 kept, dropped: 1 missing_forces" in lines[0]
    assert "3 rows, 3 kept, dropped: none" in lines[1]


def test_a_raw_file_that_changed_since_the_download_is_named(workspace, raw):
    raw(many(0, 2))
    path = workspace.raw_folder("alexandria") / "alexandria_000.json.bz2"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"alexandria_000\.json\.bz2 has \d+ bytes, expected"):
        extract(workspace)
    path.unlink()
    with pytest.raises(ValueError, match="is missing, expected"):
        extract(workspace)


def test_without_a_download_there_is_nothing_to_extract(workspace):
    with pytest.raises(ValueError, match=r"manifest\.json is missing"):
        extract(workspace)
