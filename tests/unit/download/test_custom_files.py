"""Which files of a folder are those of a source that only the configuration knows."""

import json

import pytest

from mtlpar.download.settings import DownloadSettings
from mtlpar.download.stage import run
from mtlpar.sources import registry
from mtlpar.sources.settings import CustomSource


@pytest.fixture
def mirror(tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    return folder


@pytest.fixture
def download(workspace, mirror):
    """Download the files of a custom source with these patterns; their names."""

    def get(*files):
        custom = CustomSource(format="extxyz", files=files, level_of_theory="X")
        registry.define_custom_sources({"mine": custom})
        settings = DownloadSettings(mirrors=(str(mirror),))
        run("mine", workspace=workspace, settings=settings, catalogue=None)
        content = json.loads(workspace.raw_manifest("mine").read_text())
        return [file["name"] for file in content["files"]]

    yield get
    registry.define_custom_sources({})


def test_each_entry_of_the_files_must_be_there(mirror, download):
    # With the others alone the data set would be another one, and nobody would know.
    (mirror / "water_1.xyz").write_text("1")
    (mirror / "ice.xyz").write_text("2")
    assert download("water_*.xyz", "ice.xyz") == ["ice.xyz", "water_1.xyz"]
    with pytest.raises(ValueError, match=r"no file is 'steam_\*\.xyz' in the mirror .*found ice"):
        download("water_*.xyz", "ice.xyz", "steam_*.xyz")
