"""Which files of a folder are those of a source that only the configuration knows."""

import errno
import json

import pytest

from mtlpar.download.mirror import mirror_fingerprint
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

    def get(*files, mirrors=()):
        custom = CustomSource(format="extxyz", files=files, level_of_theory="X", mirrors=mirrors)
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


def test_a_mirror_of_the_source_alone_is_its_folder(mirror, download, workspace):
    # The other file is in a folder of the source's name, where a mirror of all sources has it.
    (mirror / "mine").mkdir()
    (mirror / "mine/water_1.xyz").write_text("another one")
    (mirror / "water_1.xyz").write_text("1")
    assert download("water_1.xyz") == ["water_1.xyz"]
    [copy] = workspace.raw_manifest("mine").parent.glob("*.xyz")
    assert copy.read_text() == "another one"
    download("water_1.xyz", mirrors=(f"{mirror}/",))
    assert copy.read_text() == "1"


def test_folders_and_hidden_files_are_no_files_of_a_source(mirror, download):
    # macOS puts a hidden file beside each one that it copies, which is no extended XYZ.
    (mirror / "water_1.xyz").write_text("1")
    (mirror / "._water_1.xyz").write_bytes(b"\0\5\x16\7")
    (mirror / "old.xyz").mkdir()
    (mirror / "checksums.txt").write_text("")
    (mirror / "more.txt").write_text("2")
    assert download("*.xyz", "*.txt") == ["more.txt", "water_1.xyz"]


@pytest.mark.parametrize("target", ["/nowhere/water_1.xyz", "water_1.xyz"])
def test_a_link_that_leads_nowhere_is_named(mirror, download, target):
    # The second is a link to itself, which the system refuses in another way.
    (mirror / "water_1.xyz").symlink_to(target)
    (mirror / "water_2.xyz").write_text("2")
    with pytest.raises(ValueError, match=rf"water_1\.xyz points to no file.*{target}"):
        download("*.xyz")
    # Snakemake asks for it before anything runs, and it never fails.
    assert mirror_fingerprint("mine", str(mirror))


def test_a_folder_that_cannot_be_read_is_named(mirror, download, monkeypatch):
    # A mount whose server is away.
    def fail(source, folder):
        raise OSError(errno.ESTALE, "Stale file handle", str(folder))

    monkeypatch.setattr("mtlpar.download.mirror._local_paths", fail)
    with pytest.raises(ValueError, match=r"mirror .* cannot be read: .*Stale file handle"):
        download("*.xyz")
    assert "Stale" in mirror_fingerprint("mine", str(mirror))


@pytest.mark.parametrize("name", ["manifest.json", "a.json.part", "a.json.part.version"])
def test_names_that_the_download_writes_itself_are_refused(mirror, download, name, workspace):
    # As where the raw folder of another project is the mirror: the manifest would take the place of
    # a database called manifest.json.
    (mirror / "a.json").write_text("1")
    (mirror / name).write_text("2")
    with pytest.raises(ValueError, match=f"^{name} of mine in the mirror .*narrow the patterns"):
        download("*.json*")
    assert not workspace.raw_folder("mine").exists()


def test_a_name_too_long_for_what_is_made_of_the_file_is_refused(mirror, download):
    # The mirror's file system takes it, and that of the part file would not.
    name = f"{'ä' * 120}.xyz"
    (mirror / name).write_text("1")
    with pytest.raises(ValueError, match=f"{name} of mine .* at most 220 bytes"):
        download("*.xyz")
