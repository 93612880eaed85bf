"""Real bytes go through download and extract as a user would run them."""

import shutil
from pathlib import Path

import pytest

from mtlpar.core.files import file_digest, read_json
from mtlpar.core.paths import Workspace
from mtlpar.download import stage as download
from mtlpar.download.settings import DownloadSettings
from mtlpar.extract import stage as extract
from mtlpar.extract.settings import ExtractSettings

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
