"""What `mtlpar download --list` shows."""

import hashlib
from collections import namedtuple

import pytest

from mtlpar.core.files import format_bytes
from mtlpar.download import local
from mtlpar.download.overview import describe
from mtlpar.download.settings import DownloadSettings
from mtlpar.download.stage import run

MD5 = hashlib.md5(b"", usedforsecurity=False).hexdigest()
LISTING = ("alexandria", "alexandria_*.json.bz2", "/pbe/", "listing")


@pytest.fixture
def table(workspace):
    def get(*sources, catalogue, **more):
        return describe(
            sources,
            workspace=workspace,
            settings=DownloadSettings(timeout_s=5),
            catalogue=catalogue,
            **more,
        )

    return get


def row(text, name):
    """Cells of the line of a file."""
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [name])


def test_what_is_here_and_what_would_come(table, workspace, catalogue, server):
    rows = [("qm7x", f"{i}000.xz", f"/{i}", "data", 2_000_000_000 + i, MD5) for i in range(1, 5)]
    rows.append(("qm7x", "DupMols.dat", "/5", "sidecar", 10, MD5))
    folder = workspace.raw_folder("qm7x")
    folder.mkdir(parents=True)
    (folder / "DupMols.dat").write_bytes(bytes(10))
    (folder / "2000.xz").write_bytes(b"other length")
    (folder / "3000.xz").mkdir()
    with (folder / "4000.xz.part").open("wb") as part:
        part.truncate(500_000_000)  # sparse, takes no space
    text = table("qm7x", catalogue=catalogue(*rows))
    assert server.requests == []
    assert row(text, "1000.xz") == ["1000.xz", "2.00", "GB", "2,000,000,001", "md5", "no"]
    assert row(text, "2000.xz")[-2:] == ["other", "length"]
    assert row(text, "3000.xz")[-4:] == ["folder", "in", "the", "way"]
    assert row(text, "4000.xz")[-2:] == ["25", "%"]
    assert row(text, "DupMols.dat")[-1] == "yes"
    # 8,000,000,020 in all, without the half gigabyte of the part file and the ten bytes.
    assert "5 files, 8.00 GB (8,000,000,020 bytes); 1 here, 7.50 GB to fetch" in text
    assert "CC0; Someone; data doi:10.1/x" in text


def test_sums_over_sources(table, catalogue):
    rows = [
        ("ani1x", "ani1x-release.h5", "/a", "data", 3_000_000, MD5),
        ("mptrj", "MPtrj_2022.9_full.json", "/m", "data", 4_000_000, MD5),
    ]
    text = table("ani1x", "mptrj", catalogue=catalogue(*rows))
    assert text.splitlines()[-1].startswith("total: 2 files, 7.00 MB (7,000,000 bytes); 0 here")


def test_a_file_of_two_sources_is_shown_with_both_and_summed_once(table, catalogue):
    rows = [("ani1x", "ani1x-release.h5", "/a", "data", 3_000_000, MD5)]
    text = table("ani1x", "ani1ccx", catalogue=catalogue(*rows))
    assert text.count("1 file, 3.00 MB (3,000,000 bytes)") == 3
    assert "in the files of ani1x, which are downloaded once" in text
    assert text.splitlines()[-1].startswith("total: 1 file, 3.00 MB")


def test_a_length_that_nobody_announces_is_that_of_the_file_once_it_is_here(
    tmp_path, workspace, server, caplog
):
    # Python's own index, of a mirror that is a bare folder, has no lengths.
    server.files = {
        "/ani1x/": b'<a href="ani1x-release.h5">x</a>',
        "/ani1x/ani1x-release.h5": b"data",
    }
    settings = DownloadSettings(mirrors=(server.url,))
    more = {"workspace": workspace, "settings": settings, "catalogue": tmp_path / "none.csv"}
    text = describe(["ani1x"], **more)
    assert row(text, "ani1x-release.h5") == ["ani1x-release.h5", "?", "?", "none", "yet", "no"]
    assert "1 file, at least 0 B (0 bytes); 0 here, at least 0 B to fetch" in text
    caplog.set_level("INFO")
    run("ani1x", **more)
    assert "files: 1, to fetch: at least 0 B" in caplog.text
    text = describe(["ani1x"], **more)
    assert row(text, "ani1x-release.h5")[1:4] == ["4", "B", "4"]
    assert "1 file, 4 B (4 bytes); all here" in text


def test_a_folder_is_listed_until_it_is_locked_and_nothing_is_written(
    table, workspace, catalogue, server
):
    server.files = {
        "/pbe/": b'<a href="alexandria_000.json.bz2">x</a> 16-Dec-2024 10:31 4\n',
        "/pbe/alexandria_000.json.bz2": b"data",
    }
    csv = catalogue(LISTING)
    text = table("alexandria", catalogue=csv)
    line = ["alexandria_000.json.bz2", "4", "B", "4"]
    assert row(text, line[0]) == [*line, "none", "yet", "no"]
    assert not csv.with_suffix(".lock").exists()
    assert not workspace.raw.exists()
    run("alexandria", workspace=workspace, settings=DownloadSettings(), catalogue=csv)
    server.requests.clear()
    assert row(table("alexandria", catalogue=csv), line[0]) == [*line, "sha256,", "locked", "yes"]
    assert server.requests == []


def test_a_server_that_is_away_hides_no_other_source(table, catalogue):
    csv = catalogue(LISTING, ("ani1x", "ani1x-release.h5", "/a", "data", 3_000_000, MD5))
    text = table("alexandria", "ani1x", catalogue=csv)
    assert "its files are not known: " in text
    assert row(text, "ani1x-release.h5")
    assert "total: 1 file, at least 3.00 MB" in text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (9_994, "9.99 kB"), (9_996, "10.0 kB"),
     (99_960, "100 kB"), (999_600, "1.00 MB"), (12_188_168_685, "12.2 GB")],
)  # fmt: skip
def test_sizes_for_people_have_three_digits(size, text):
    assert format_bytes(size) == text


class TestSpace:
    @pytest.fixture
    def free(self, monkeypatch):
        """Say how much is free."""

        def set_free(size):
            usage = namedtuple("usage", "free")(size)
            monkeypatch.setattr(local.shutil, "disk_usage", lambda path: usage)

        return set_free

    def test_a_disk_that_is_too_small_is_an_error_before_anything_is_fetched(
        self, free, workspace, catalogue, server
    ):
        # Each of the two would fit alone.
        server.files = {"/a": bytes(600), "/m": bytes(600)}
        rows = [
            ("ani1x", "ani1x-release.h5", "/a", "data", 600, ""),
            ("mptrj", "MPtrj_2022.9_full.json", "/m", "data", 600, ""),
        ]
        free(1199)
        with pytest.raises(ValueError, match=r"1,200 bytes\) .*1,199 bytes\) free.*paths\.raw"):
            run(
                *("ani1x", "mptrj"),
                workspace=workspace,
                settings=DownloadSettings(),
                catalogue=catalogue(*rows),
            )
        assert server.requests == []
        assert not workspace.raw.exists()

    def test_what_is_here_already_needs_no_space(self, free, workspace, catalogue, server):
        server.files = {"/a": bytes(600), "/m": bytes(600)}
        rows = [
            ("ani1x", "ani1x-release.h5", "/a", "data", 600, ""),
            ("mptrj", "MPtrj_2022.9_full.json", "/m", "data", 600, ""),
        ]
        for source, name, size in (
            ("ani1x", "ani1x-release.h5.part", 100),
            ("mptrj", "MPtrj_2022.9_full.json", 600),
        ):
            workspace.raw_folder(source).mkdir(parents=True)
            (workspace.raw_folder(source) / name).write_bytes(bytes(size))
        free(500)
        run(
            *("ani1x", "mptrj"),
            workspace=workspace,
            settings=DownloadSettings(),
            catalogue=catalogue(*rows),
        )
