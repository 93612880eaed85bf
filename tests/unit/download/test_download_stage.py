import hashlib
import json

import pytest
from helpers import REPOSITORY

from mtlpar.download.mirror import mirror_fingerprint
from mtlpar.download.plan import planned_files
from mtlpar.download.settings import CATALOGUE, DownloadSettings
from mtlpar.download.stage import run
from mtlpar.download.web import Web


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def mirror(tmp_path):
    """A mirror with a folder per source, and files that are nobody's."""
    folder = tmp_path / "mirror" / "qm7x"
    folder.mkdir(parents=True)
    for name in ("8000.xz", "1000.xz", "DupMols.dat", "9000.xz", "README.txt"):
        (folder / name).write_bytes(name.encode())
    return tmp_path / "mirror"


def download(source, workspace, *mirrors, catalogue=None):
    settings = DownloadSettings(
        mirrors=tuple(map(str, mirrors)) or (CATALOGUE,), retries=0, timeout_s=5
    )
    run(source, workspace=workspace, settings=settings, catalogue=catalogue)
    return json.loads(workspace.raw_manifest(source).read_text())


def test_a_mirror_gives_the_files_of_the_source_and_no_others(mirror, workspace):
    manifest = download("qm7x", workspace, mirror)
    assert [(file["name"], file["kind"]) for file in manifest["files"]] == [
        ("1000.xz", "data"),
        ("8000.xz", "data"),
        ("DupMols.dat", "sidecar"),
    ]
    assert manifest["files"][0] == {
        "name": "1000.xz",
        "bytes": 7,
        "sha256": sha256(b"1000.xz"),
        "url": str(mirror / "qm7x" / "1000.xz"),
        "kind": "data",
    }


def test_a_mirror_may_be_flat(mirror, workspace):
    assert len(download("qm7x", workspace, mirror / "qm7x")["files"]) == 3


@pytest.mark.parametrize("prefix", ["", "qm7x/", "./qm7x/"])
def test_checksums_of_a_mirror_are_compared(mirror, workspace, prefix):
    (mirror / "checksums.txt").write_text(f"{sha256(b'else')}  {prefix}8000.xz\n")
    with pytest.raises(ValueError, match=rf"8000\.xz .*expected {sha256(b'else')}"):
        download("qm7x", workspace, mirror)
    # 1000.xz arrived, but no manifest vouches for an incomplete folder.
    assert not workspace.raw_manifest("qm7x").exists()


def test_a_manifest_of_an_earlier_run_does_not_survive_a_failure(mirror, workspace):
    download("qm7x", workspace, mirror)
    (mirror / "checksums.txt").write_text(f"{sha256(b'else')}  8000.xz\n")
    with pytest.raises(ValueError, match="is not the expected file"):
        download("qm7x", workspace, mirror)
    assert not workspace.raw_manifest("qm7x").exists()


def test_checksums_that_are_none_are_named_by_line(mirror, workspace):
    (mirror / "checksums.txt").write_text(f"{sha256(b'')}  a\nd41d8cd98f  b\n")
    with pytest.raises(ValueError, match=r"checksums\.txt line 2"):
        download("qm7x", workspace, mirror)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_checksums_may_have_a_mark_in_front_and_other_encodings_are_named(
    mirror, workspace, encoding
):
    # What PowerShell writes.
    text = f"{sha256(b'8000.xz')}  8000.xz\n"
    (mirror / "checksums.txt").write_text(text, encoding=encoding)
    if encoding == "utf-8-sig":
        assert len(download("qm7x", workspace, mirror)["files"]) == 3
    else:
        with pytest.raises(ValueError, match=r"checksums\.txt is not in UTF-8 "):
            download("qm7x", workspace, mirror)
    # Snakemake asks for it before anything runs, and it never fails.
    assert mirror_fingerprint("qm7x", str(mirror))


def test_qm7x_without_its_list_of_duplicates_is_an_error(mirror, workspace):
    (mirror / "qm7x" / "DupMols.dat").unlink()
    with pytest.raises(ValueError, match=r"DupMols\.dat of qm7x is missing"):
        download("qm7x", workspace, mirror)


def test_a_mirror_without_data_says_where_it_looked_and_for_what(mirror, workspace):
    with pytest.raises(ValueError, match=r"no data file of ani1x .*mirror.*ani1x-release\.h5"):
        download("ani1x", workspace, mirror)


def test_a_mirror_that_is_no_folder_is_named(tmp_path, workspace):
    with pytest.raises(ValueError, match=r"gone, which is not a folder"):
        download("qm7x", workspace, tmp_path / "gone")


def test_a_relative_mirror_says_in_which_folder_it_was_looked_for(tmp_path, workspace, monkeypatch):
    # The default mirror is workflow/sample: started elsewhere, it is the folder that is wrong.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"not a folder in {tmp_path}, where mtlpar was started"):
        download("qm7x", workspace, "workflow/sample")


def test_a_web_mirror_is_listed_by_its_checksums(server, workspace):
    content = {"/m/qm7x/1000.xz": b"data", "/m/qm7x/DupMols.dat": b"list"}
    # ani1x has a file of this name pattern in another folder; it must not be taken for qm7x's.
    others = {"/m/other/2000.xz": b"no"}
    server.files = {**content, **others}
    server.files["/m/checksums.txt"] = "".join(
        f"{sha256(value)}  {path[3:]}\n" for path, value in server.files.items()
    ).encode()
    manifest = download("qm7x", workspace, f"{server.url}/m")
    assert [file["name"] for file in manifest["files"]] == ["1000.xz", "DupMols.dat"]
    server.files["/m/qm7x/1000.xz"] = b"changed"
    (workspace.raw_folder("qm7x") / "1000.xz").unlink()
    with pytest.raises(ValueError, match="sha256 is"):
        download("qm7x", workspace, f"{server.url}/m")


@pytest.mark.parametrize("folder", ["/m/", "/m/alexandria/"])
def test_a_web_mirror_without_checksums_is_listed_by_its_index(server, workspace, folder):
    server.files = {
        folder: b'<a href="../">up</a><a href="alexandria_000.json.bz2">x</a>'
        b'<a href="/elsewhere/alexandria_001.json.bz2">not in this folder</a>',
        f"{folder}alexandria_000.json.bz2": b"data",
    }
    manifest = download("alexandria", workspace, f"{server.url}/m")
    assert [file["name"] for file in manifest["files"]] == ["alexandria_000.json.bz2"]


def test_alexandria_is_found_by_listing_and_other_files_are_left(server, workspace, catalogue):
    names = ["alexandria_001.json.bz2", "alexandria_2d_000.json.bz2", "alexandria_000.json.bz2"]
    others = ["convex_hull_000.json.bz2", "alexandria_ps_000.json.bz2", "alexandria_old.json.bz2"]
    index = "".join(f'<a href="{name}">{name}</a>' for name in names + others)
    server.files = {"/pbe/": index.encode(), **{f"/pbe/{name}": b"x" for name in names}}
    table = catalogue(("alexandria", "alexandria_[0-9]*.json.bz2", "/pbe/", "listing"))
    manifest = download("alexandria", workspace, catalogue=table)
    assert [file["name"] for file in manifest["files"]] == sorted(names)


def test_a_release_folder_that_moved_is_an_error(server, workspace, catalogue):
    table = catalogue(("alexandria", "alexandria_*.json.bz2", "/pbe/", "listing"))
    with pytest.raises(ValueError, match="the release has moved"):
        download("alexandria", workspace, catalogue=table)


def test_a_source_without_rows_in_the_catalogue_is_an_error(workspace, catalogue):
    table = catalogue(("ani1x", "ani1x-release.h5", "/a", "data"))
    with pytest.raises(ValueError, match="no data file of mptrj in the catalogue"):
        download("mptrj", workspace, catalogue=table)


def test_what_is_unpacked_by_hand_is_not_fetched_and_the_error_says_what_to_do(
    server, workspace, catalogue
):
    table = catalogue(("mptrj", "mptrj.tar.gz", "/mptrj.tar.gz", "by_hand"))
    with pytest.raises(ValueError, match=r"mptrj comes in .*by hand: fetch http.*/mptrj\.tar\.gz;"):
        download("mptrj", workspace, catalogue=table)
    assert server.requests == []


def test_files_keep_their_own_names_whatever_the_url_is(server, workspace, catalogue):
    # figshare's URLs end in numbers.
    server.files["/files/18112775"] = b"data"
    table = catalogue(("ani1x", "ani1x-release.h5", "/files/18112775", "data"))
    assert download("ani1x", workspace, catalogue=table)["files"][0]["name"] == "ani1x-release.h5"


class TestFingerprint:
    def test_changes_with_names_sizes_and_announced_checksums(self, mirror):
        seen = {mirror_fingerprint("qm7x", str(mirror))}
        (mirror / "qm7x" / "1000.xz").write_bytes(b"longer than before")
        seen.add(mirror_fingerprint("qm7x", str(mirror)))
        (mirror / "qm7x" / "2000.xz").write_bytes(b"")
        seen.add(mirror_fingerprint("qm7x", str(mirror)))
        (mirror / "checksums.txt").write_text(f"{sha256(b'1')}  qm7x/1000.xz\n")
        seen.add(mirror_fingerprint("qm7x", str(mirror)))
        assert len(seen) == 4

    def test_ignores_files_of_other_sources(self, mirror):
        before = mirror_fingerprint("qm7x", str(mirror))
        (mirror / "ani1x-release.h5").write_bytes(b"x")
        (mirror / "checksums.txt").write_text(f"{sha256(b'x')}  ani1x-release.h5\n")
        assert mirror_fingerprint("qm7x", str(mirror)) == before

    def test_never_fails(self, tmp_path):
        # It is asked while the workflow is planned; a mirror may be long gone by then.
        assert mirror_fingerprint("qm7x", str(tmp_path / "gone"))
        assert mirror_fingerprint("qm7x", "https://x.org/m") == "https://x.org/m"


@pytest.fixture
def shared(tmp_path):
    """A mirror with the one file of ANI1x and ANI1ccx."""
    folder = tmp_path / "mirror" / "ani1x"
    folder.mkdir(parents=True)
    (folder / "ani1x-release.h5").write_bytes(b"both levels of theory")
    (tmp_path / "mirror" / "levels_of_theory.json").write_text('{"ani1ccx": "CCSD(T)/6-31G(d)"}')
    return tmp_path / "mirror"


def test_two_sources_of_one_file_have_it_once_and_a_manifest_each(shared, workspace, caplog):
    caplog.set_level("INFO")
    settings = DownloadSettings(mirrors=(str(shared),), retries=0, timeout_s=5)
    run("ani1x", "ani1ccx", workspace=workspace, settings=settings, catalogue=None)
    assert [path.relative_to(workspace.raw).as_posix() for path in workspace.raw.rglob("*.h5")] == [
        "ani1x/ani1x-release.h5"
    ]
    assert "files: 1, to fetch: 21 B" in caplog.text
    manifests = [
        json.loads(workspace.raw_manifest(source).read_text()) for source in ("ani1x", "ani1ccx")
    ]
    assert manifests[0]["files"] == manifests[1]["files"]
    # One file, two levels of theory.
    levels = [manifest["level_of_theory"] for manifest in manifests]
    assert levels == [None, "CCSD(T)/6-31G(d)"]


def test_the_second_source_of_a_file_finds_it_downloaded_whatever_the_order(shared, workspace):
    # Each alone, as the jobs of Snakemake are; the catalogue knows the file under one name.
    download("ani1ccx", workspace, shared)
    file = workspace.raw / "ani1x" / "ani1x-release.h5"
    before = file.stat().st_mtime_ns
    download("ani1x", workspace, shared)
    assert file.stat().st_mtime_ns == before
    assert not (workspace.raw / "ani1ccx" / "ani1x-release.h5").exists()


def test_the_catalogue_lists_a_shared_file_once(workspace, tmp_path):
    # 5.6 GB that are not fetched: what is planned is enough.
    catalogue = REPOSITORY / "workflow" / "sources.csv"
    with Web(retries=0, timeout_s=5, per_host=1) as web:
        plans = [
            planned_files(source, tmp_path, (CATALOGUE,), catalogue=catalogue, web=web)[0]
            for source in ("ani1x", "ani1ccx")
        ]
    assert plans[0] == plans[1]
    assert [file.name for file in plans[0]] == ["ani1x-release.h5"]
