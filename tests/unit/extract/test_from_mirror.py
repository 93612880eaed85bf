"""Real bytes go through download and extract as a user would run them."""

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers import REPOSITORY

from mtlpar.core.files import file_digest, read_json, write_json
from mtlpar.core.paths import Workspace
from mtlpar.download import stage as download
from mtlpar.download.settings import DownloadSettings
from mtlpar.extract import stage as extract
from mtlpar.extract.settings import ExtractSettings
from mtlpar.store.bp import BpReader

EXCERPTS = Path(__file__).parents[4] / "shared" / "excerpts"


@pytest.mark.parametrize(
    ("source", "excerpt", "native_name", "rows"),
    [
        ("ani1x", "ani1x/ani1_n5.hdf5", "ani1x-release.h5", 8),
        ("mptrj", "mptrj/derived_native_layout.json", "MPtrj_2022.9_full.json", 11),
        ("alexandria", "alexandria/derived_alexandria_000.json.bz2", "alexandria_000.json.bz2", 10),
    ],
)
def test_every_real_row_arrives(tmp_path, source, excerpt, native_name, rows):
    if not (EXCERPTS / excerpt).is_file():
        pytest.skip(f"excerpt {excerpt} is not here")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    shutil.copyfile(EXCERPTS / excerpt, mirror / native_name)
    (mirror / "checksums.txt").write_text(f"{file_digest(mirror / native_name)}  {native_name}\n")
    workspace = Workspace(raw=tmp_path / "raw", results=tmp_path / "results")
    download.run(
        source,
        workspace=workspace,
        settings=DownloadSettings(mirrors=str(mirror)),
        catalogue=tmp_path / "unused.csv",
    )
    extract.run(source, workspace=workspace, settings=ExtractSettings())
    manifest = read_json(workspace.extracted_manifest(source))
    assert manifest["rows"] == rows
    assert manifest["dropped"] == {}
    assert [part["num_structures"] for part in manifest["parts"]] == [rows]


@pytest.mark.long
def test_the_level_of_theory_is_what_the_mirror_says(tmp_path):
    # The embedded sample has the names of real files and labels of other methods: whoever reads a
    # pack or a table made of it must not take them for DFT.
    mirror = tmp_path / "mirror"
    shutil.copytree(REPOSITORY / "workflow" / "sample" / "ani1x", mirror / "ani1x")
    workspace = Workspace(raw=tmp_path / "raw", results=tmp_path / "results")
    for stated in (None, "GFN2-xTB"):
        if stated:
            (mirror / "levels_of_theory.json").write_text(json.dumps({"ani1x": stated}))
        download.run(
            "ani1x",
            workspace=workspace,
            settings=DownloadSettings(mirrors=str(mirror)),
            catalogue=tmp_path / "unused.csv",
        )
        extract.run("ani1x", workspace=workspace, settings=ExtractSettings())
        manifest = read_json(workspace.extracted_manifest("ani1x"))
        assert manifest["level_of_theory"] == (stated or "wB97X/6-31G(d)")
        with BpReader(workspace.extracted_folder("ani1x") / manifest["parts"][0]["name"]) as part:
            assert part.header.level_of_theory == manifest["level_of_theory"]


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_level_of_theory_that_was_edited_is_refused(tmp_path, how):
    # Without it all labels were said to be at the level of the real files.
    workspace = Workspace(raw=tmp_path / "raw", results=tmp_path / "results")
    download.run(
        "ani1x",
        workspace=workspace,
        settings=DownloadSettings(mirrors=str(REPOSITORY / "workflow" / "sample")),
        catalogue=tmp_path / "unused.csv",
    )
    path = workspace.raw_manifest("ani1x")
    manifest = read_json(path)
    assert manifest.pop("level_of_theory")
    write_json(path, manifest | ({"level_of_theory": "GFN1-xT"} if how == "replaced" else {}))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*(level_of_theory|digest)"):
        extract.run("ani1x", workspace=workspace, settings=ExtractSettings())


@pytest.mark.parametrize("content", ["{", '["GFN2-xTB"]', '{"ani1x": 2}'])
def test_levels_that_cannot_be_read_are_told(tmp_path, content):
    mirror = tmp_path / "mirror"
    shutil.copytree(REPOSITORY / "workflow" / "sample" / "ani1x", mirror / "ani1x")
    (mirror / "levels_of_theory.json").write_text(content)
    with pytest.raises(ValueError, match=r"levels_of_theory\.json"):
        download.run(
            "ani1x",
            workspace=Workspace(raw=tmp_path / "raw", results=tmp_path / "results"),
            settings=DownloadSettings(mirrors=str(mirror)),
            catalogue=tmp_path / "unused.csv",
        )


def test_the_embedded_sample_says_how_it_was_computed():
    levels = read_json(REPOSITORY / "workflow" / "sample" / "levels_of_theory.json")
    assert levels.pop("ani1ccx") == "CCSD(T)/6-31G(d)"
    assert {*levels} == {"ani1x", "qm7x", "mptrj", "alexandria", "transition1x"}
    assert all(level.endswith("-xTB") for level in levels.values())
