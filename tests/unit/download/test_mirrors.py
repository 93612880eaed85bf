"""Several mirrors in order: which one says what the files are, and which one they come from."""

import hashlib
import json

import pytest

from mtlpar.download.settings import DownloadSettings
from mtlpar.download.stage import run

FILES = {"1000.xz": b"thousand", "2000.xz": b"two thousand", "DupMols.dat": b"list"}


def make_mirror(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def download(workspace):
    """Download qm7x; the contents of its raw folder by name."""

    def get(*mirrors, catalogue=None):
        settings = DownloadSettings(mirrors=tuple(map(str, mirrors)), retries=0, timeout_s=5)
        run("qm7x", workspace=workspace, settings=settings, catalogue=catalogue)
        folder = workspace.raw_folder("qm7x")
        names = json.loads(workspace.raw_manifest("qm7x").read_text())["files"]
        return {file["name"]: (folder / file["name"]).read_bytes() for file in names}

    return get


@pytest.fixture
def archives(server, catalogue):
    """The catalogue's files on the server, with their published checksums."""
    server.files = {f"/{name}": content for name, content in FILES.items()}
    return catalogue(
        *(
            (
                "qm7x",
                name,
                f"/{name}",
                "sidecar" if name == "DupMols.dat" else "data",
                len(content),
                hashlib.md5(content, usedforsecurity=False).hexdigest(),
            )
            for name, content in FILES.items()
        )
    )


class TestWithTheCatalogue:
    """The catalogue says what the files are; mirrors before it are nearer copies."""

    def test_a_nearer_copy_saves_the_transfer(self, tmp_path, download, archives, server):
        near = make_mirror(tmp_path / "near", {"1000.xz": FILES["1000.xz"]})
        assert download(near, "catalogue", catalogue=archives) == FILES
        assert sorted({path for path, _ in server.requests}) == ["/2000.xz", "/DupMols.dat"]

    def test_a_damaged_copy_is_noticed_and_replaced(self, tmp_path, download, archives, caplog):
        near = make_mirror(tmp_path / "near", {"1000.xz": FILES["1000.xz"][::-1]})
        assert download(near, "catalogue", catalogue=archives) == FILES
        assert "1000.xz from" in caplog.text
        assert "is not the expected file" in caplog.text

    def test_a_copy_of_another_length_is_not_even_read(self, tmp_path, download, archives, caplog):
        near = make_mirror(tmp_path / "near", {"1000.xz": b"short"})
        assert download(near, "catalogue", catalogue=archives) == FILES
        assert "another length or checksum" in caplog.text

    @pytest.mark.parametrize("broken", ["/nowhere", "http://127.0.0.1:9/m"])
    def test_a_mirror_that_is_away_costs_a_warning(self, download, archives, broken, caplog):
        assert download(broken, "catalogue", catalogue=archives) == FILES
        assert "continuing without this mirror" in caplog.text

    def test_a_mirror_behind_it_steps_in(self, tmp_path, download, archives, server, caplog):
        server.statuses["/1000.xz"] = [403]
        behind = make_mirror(tmp_path / "behind", FILES)
        assert download("catalogue", behind, catalogue=archives) == FILES
        assert "answered 403" in caplog.text

    def test_a_second_address_in_the_catalogue_steps_in(self, download, archives, server, caplog):
        text = archives.read_text()
        archives.write_text(text.replace("/1000.xz", f"/gone.xz {server.url}/1000.xz"))
        assert download("catalogue", catalogue=archives) == FILES
        assert "gone.xz answered 404" in caplog.text

    def test_manifests_name_the_published_address_wherever_files_came_from(
        self, tmp_path, download, archives, server, workspace
    ):
        # Otherwise a run that was interrupted would leave another manifest than one that was not.
        near = make_mirror(tmp_path / "near", FILES)
        download(near, "catalogue", catalogue=archives)
        files = json.loads(workspace.raw_manifest("qm7x").read_text())["files"]
        assert {file["url"] for file in files} == {f"{server.url}/{name}" for name in FILES}


class TestWithoutTheCatalogue:
    """The first mirror that has the source says what the files are; the others are copies of it."""

    def test_the_first_complete_one_is_taken(self, tmp_path, download, caplog):
        # Without the list of duplicates QM7-X cannot be read, so the first one does not have it.
        first = make_mirror(tmp_path / "first", {"1000.xz": b"incomplete"})
        second = make_mirror(tmp_path / "second", FILES)
        assert download(first, second) == FILES
        assert f"DupMols.dat of qm7x is missing in the mirror {first}" in caplog.text

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_one_that_has_other_sources_only_is_no_reason_to_warn(
        self, tmp_path, download, caplog, order
    ):
        # As the embedded sample beside a folder of one's own.
        caplog.set_level("INFO")
        others = make_mirror(tmp_path / "others", {"ani1x-release.h5": b"x"})
        mirrors = (others, make_mirror(tmp_path / "own", FILES))
        assert download(*(mirrors[index] for index in order)) == FILES
        assert f"the mirror {others} has no files of qm7x" in caplog.text
        assert not [one for one in caplog.records if one.levelname == "WARNING"]

    def test_a_file_that_fails_comes_from_the_next(self, tmp_path, download, server):
        # The first announces checksums and has a damaged file.
        first = make_mirror(tmp_path / "first", {**FILES, "1000.xz": b"damaged!"})
        sums = "".join(f"{hashlib.sha256(FILES[n]).hexdigest()}  {n}\n" for n in FILES)
        (first / "checksums.txt").write_text(sums)
        second = make_mirror(tmp_path / "second", FILES)
        assert download(first, second) == FILES

    def test_a_file_that_is_not_the_same_is_never_mixed_in(self, tmp_path, download):
        # A second mirror with another data set under the same names.
        first = make_mirror(tmp_path / "first", {**FILES, "1000.xz": b"damaged!"})
        sums = "".join(f"{hashlib.sha256(FILES[n]).hexdigest()}  {n}\n" for n in FILES)
        (first / "checksums.txt").write_text(sums)
        second = make_mirror(tmp_path / "second", {**FILES, "1000.xz": b"thous4nd"})
        with pytest.raises(ValueError, match=r"1 of 3 files failed") as caught:
            download(first, second)
        assert str(first / "1000.xz") in str(caught.value)
        assert str(second / "1000.xz") in str(caught.value)

    def test_checksums_of_a_later_one_are_not_held_against_the_first(
        self, tmp_path, download, server
    ):
        # The index of the first has no lengths; the second is another data set with checksums.
        server.files = {f"/m/{name}": content for name, content in FILES.items()}
        server.files["/m/"] = "".join(f'<a href="{name}">x</a>' for name in FILES).encode()
        second = make_mirror(tmp_path / "second", dict.fromkeys(FILES, b"other"))
        sums = "".join(f"{hashlib.sha256(b'other').hexdigest()}  {name}\n" for name in FILES)
        (second / "checksums.txt").write_text(sums)
        assert download(f"{server.url}/m", second) == FILES

    def test_if_none_has_it_each_is_named(self, tmp_path, download):
        with pytest.raises(ValueError) as caught:
            download(make_mirror(tmp_path / "empty", {}), "/nowhere")
        assert "no data file of qm7x in the mirror" in str(caught.value)
        assert "add their folder to download.mirrors" in str(caught.value)
        assert "/nowhere, which is not a folder" in str(caught.value)


def test_one_mirror_needs_no_list_and_none_is_a_mistake():
    assert DownloadSettings(mirrors="/data").mirrors == ("/data",)
    with pytest.raises(ValueError, match="at least 1"):
        DownloadSettings(mirrors=())
