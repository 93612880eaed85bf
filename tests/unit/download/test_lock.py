"""What was found once is what comes again, or an error that says how to accept the change."""

import hashlib
import json

import pytest

from mtlpar.download.settings import DownloadSettings
from mtlpar.download.stage import run

NAMES = ("alexandria_000.json.bz2", "alexandria_001.json.bz2")
PATTERN = "alexandria_[0-9][0-9][0-9]*.json.bz2"


def index(*names, sizes=None):
    # The lines of nginx, with the exact length at the end.
    sizes = sizes or {}
    return "".join(
        f'<a href="{name}">{name}</a>   16-Dec-2024 10:31   {sizes.get(name, "-")}\r\n'
        for name in ("../", "convex_hull.json.bz2", *names)
    ).encode()


class Release:
    """A folder of Alexandria on the server, its catalogue, and somebody who downloads it."""

    def __init__(self, server, workspace, catalogue):
        self.server = server
        self.workspace = workspace
        self.catalogue = catalogue(("alexandria", PATTERN, "/pbe/", "listing"))
        self.raw = workspace.raw_folder("alexandria")
        self.lock = self.catalogue.with_suffix(".lock") / "alexandria.json"
        server.files = {f"/pbe/{name}": name.encode() for name in NAMES}
        self.list(*NAMES)

    def list(self, *names, **more):
        self.server.files["/pbe/"] = index(*names, **more)

    def download(self, mirrors=("catalogue",), **more):
        settings = DownloadSettings(mirrors=mirrors, retries=0, timeout_s=5)
        run(
            "alexandria",
            workspace=self.workspace,
            settings=settings,
            catalogue=self.catalogue,
            **more,
        )
        manifest = self.workspace.raw_manifest("alexandria")
        return [file["name"] for file in json.loads(manifest.read_text())["files"]]

    def locked(self):
        return json.loads(self.lock.read_text())["files"]


@pytest.fixture
def release(server, workspace, catalogue):
    return Release(server, workspace, catalogue)


def test_names_addresses_lengths_and_checksums_are_locked(release, server):
    release.list(*NAMES, sizes={NAMES[0]: len(NAMES[0])})
    release.download()
    assert release.locked() == [
        {
            "name": name,
            "url": f"{server.url}/pbe/{name}",
            "bytes": len(name),
            "sha256": hashlib.sha256(name.encode()).hexdigest(),
        }
        for name in NAMES
    ]


def test_a_length_in_the_index_is_held_against_the_file(release):
    release.list(*NAMES, sizes={NAMES[0]: 7})
    with pytest.raises(ValueError, match=rf"announced with {len(NAMES[0])} bytes, expected 7"):
        release.download()


def test_a_listing_is_locked_even_if_its_files_fail(release, server):
    # Otherwise a second run could go on with the files of another listing.
    for name in NAMES:
        server.statuses[f"/pbe/{name}"] = [403]
    with pytest.raises(ValueError, match=r"2 of 2 files failed:\s+alexandria/alexandria_00"):
        release.download()
    assert [(file["name"], file["sha256"]) for file in release.locked()] == [
        (name, None) for name in NAMES
    ]
    assert release.download() == list(NAMES)


def test_a_second_run_asks_nothing_and_changes_nothing(release, server):
    release.download()
    before, asked = release.lock.read_bytes(), len(server.requests)
    # The folder may even have moved on: whoever has all files has what was locked.
    release.list(*NAMES, "alexandria_002.json.bz2")
    assert release.download() == list(NAMES)
    assert release.lock.read_bytes() == before
    assert len(server.requests) == asked


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((*NAMES, "alexandria_002.json.bz2"), r"alexandria_002\.json\.bz2 is new"),
        (NAMES[:1], r"alexandria_001\.json\.bz2 is gone"),
        ((), "is gone"),
    ],
)
def test_a_changed_listing_is_an_error_with_both_ways_out(release, server, names, said):
    release.download()
    server.files["/pbe/alexandria_002.json.bz2"] = b"new"
    (release.raw / NAMES[0]).unlink()
    release.list(*names)
    with pytest.raises(ValueError, match=rf"{said}.*--relock.*--locked"):
        release.download()
    assert release.download(lock_use="keep") == list(NAMES)
    if names:
        (release.raw / NAMES[0]).unlink()
        assert release.download(lock_use="renew") == list(names)
        assert [file["name"] for file in release.locked()] == list(names)


def test_a_changed_length_in_the_listing_is_an_error(release):
    release.download()
    (release.raw / NAMES[0]).unlink()
    release.list(*NAMES, sizes={NAMES[1]: 99})
    with pytest.raises(ValueError, match=rf"{NAMES[1]} has 99 bytes, not {len(NAMES[1])}"):
        release.download()


def test_changed_bytes_are_an_error_with_both_sums_until_they_are_accepted(release, server):
    release.download()
    (release.raw / NAMES[0]).unlink()
    # Same length, so that only the checksum can tell.
    changed = bytes(len(NAMES[0]))
    server.files[f"/pbe/{NAMES[0]}"] = changed
    with pytest.raises(ValueError) as caught:
        release.download()
    for expected in (
        hashlib.sha256(changed).hexdigest(),
        hashlib.sha256(NAMES[0].encode()).hexdigest(),
        str(release.lock),
        "mtlpar download --relock",
    ):
        assert expected in str(caught.value)
    assert not (release.raw / NAMES[0]).exists()
    release.download(lock_use="renew")
    assert (release.raw / NAMES[0]).read_bytes() == changed
    assert release.locked()[0]["sha256"] == hashlib.sha256(changed).hexdigest()


def test_somebody_elses_lock_gives_their_bytes_or_an_error(release, tmp_path, workspace):
    # A colleague commits the lock; a fresh clone has it and no raw files.
    release.download()
    for path in release.raw.iterdir():
        path.unlink()
    assert release.download() == list(NAMES)


@pytest.mark.parametrize("status", [404, 503])
def test_a_folder_that_cannot_be_listed_now_is_no_obstacle_to_locked_files(
    release, server, status, caplog
):
    release.download()
    (release.raw / NAMES[0]).unlink()
    server.statuses["/pbe/"] = [status]
    assert release.download() == list(NAMES)
    assert "continuing with the files in" in caplog.text


def test_locked_files_that_the_catalogue_no_longer_names_are_an_error(release, server, catalogue):
    # Somebody moves the catalogue to another release; the lock still speaks of the old one.
    release.download()
    server.files["/new/"] = index("alexandria_00000.json.bz2")
    server.files["/new/alexandria_00000.json.bz2"] = b"x"
    catalogue(("alexandria", PATTERN, "/new/", "listing"))
    with pytest.raises(ValueError, match=r"no longer names: .*/pbe/alexandria_000.*--relock"):
        release.download()
    assert release.download(lock_use="renew") == ["alexandria_00000.json.bz2"]


def test_keeping_to_a_lock_that_is_not_there_is_an_error(release):
    with pytest.raises(ValueError, match="nothing to compare with"):
        release.download(lock_use="keep")


@pytest.mark.parametrize("text", ["", "{}", '{"source": "alexandria", "files": [{"name": "a"}]}'])
def test_a_damaged_lock_is_an_error_and_not_an_empty_one(release, text):
    release.lock.parent.mkdir()
    release.lock.write_text(text)
    with pytest.raises(ValueError, match=r"alexandria\.json is not a lock file"):
        release.download()


def test_a_published_checksum_needs_no_lock(server, workspace, catalogue):
    server.files["/a"] = b"data"
    md5 = hashlib.md5(b"data", usedforsecurity=False).hexdigest()
    table = catalogue(("ani1x", "ani1x-release.h5", "/a", "data", 4, md5))
    run("ani1x", workspace=workspace, settings=DownloadSettings(), catalogue=table)
    assert not table.with_suffix(".lock").exists()


def test_the_first_download_pins_what_nobody_published(server, workspace, catalogue):
    # Transition1x: a length is published and no checksum.
    server.files["/t"] = b"first"
    table = catalogue(("transition1x", "Transition1x.h5", "/t", "data", 5, ""))

    def download():
        settings = DownloadSettings(retries=0)
        run("transition1x", workspace=workspace, settings=settings, catalogue=table)

    download()
    (workspace.raw_folder("transition1x") / "Transition1x.h5").unlink()
    server.files["/t"] = b"other"
    with pytest.raises(ValueError, match=r"sha256 is .*expected .*transition1x\.json has it"):
        download()


def test_mirrors_that_stand_in_for_the_archives_lock_nothing(release, tmp_path):
    # The embedded sample must leave no trace in the repository.
    stand_in = tmp_path / "sample"
    stand_in.mkdir()
    (stand_in / NAMES[0]).write_bytes(b"sample")
    release.download(mirrors=(str(stand_in),))
    assert not release.lock.exists()
