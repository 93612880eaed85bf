from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from helpers import REPOSITORY

from mtlpar.config.load import load_config
from mtlpar.download.catalogue import read_catalogue
from mtlpar.download.mirror import kind_of
from mtlpar.sources.registry import BUILT_IN, OPTIONAL, define_custom_sources, get_source

SHIPPED = Path(__file__).parents[3] / "workflow" / "sources.csv"
HEADER = "source,file,url,bytes,md5,sha256,licence,doi,citation,level_of_theory,kind\n"
GOOD = "a,f.h5,https://x.org/f,5,,,CC0,10.1/x,Someone,DFT,data\n"


@pytest.fixture
def blocks():
    """Names of the sources that the blocks beside the catalogue describe."""
    paths = (SHIPPED.parent / "catalogue").glob("*.yaml")
    custom = load_config([REPOSITORY / "config.yaml", *paths]).custom_sources
    define_custom_sources(custom)
    yield tuple(custom)
    define_custom_sources({})


def test_the_shipped_catalogue_agrees_with_the_readers(blocks):
    rows = read_catalogue(SHIPPED)
    assert {row.source for row in rows} == {
        get_source(name).files_name for name in (*BUILT_IN, *OPTIONAL, *blocks)
    }
    for row in rows:
        source = get_source(row.source)
        assert row.level_of_theory == source.level_of_theory
        if row.kind in ("data", "sidecar"):
            assert kind_of(source, row.file) == row.kind
            # The authors of MatPES publish no lengths; they are locked by the first download.
            assert row.bytes is not None or row.source.startswith("matpes")


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("alexandria", ("alexandria_000", "alexandria_00000", "alexandria_2d_001")),
        ("alexandria_paths", ("pbe_0000", "pbe_2d_0000", "pbe_1d_0000")),
    ],
)
def test_the_shipped_listings_take_what_the_readers_read_once_and_nothing_else(source, names):
    # The folders also have convex hulls, and relaxations of other functionals have similar names.
    patterns = [row.file for row in read_catalogue(SHIPPED) if row.source == source]
    for name in names:
        assert sum(fnmatchcase(f"{name}.json.bz2", pattern) for pattern in patterns) == 1
        assert kind_of(get_source(source), f"{name}.json.bz2") == "data"
    for name in ("convex_hull", "alexandria_ps_000", "alexandria_scan_000", "pbesol_0000"):
        assert not any(fnmatchcase(f"{name}.json.bz2", pattern) for pattern in patterns)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/download.md",
        "docs/machines.md",
        "docs/tutorials/supercomputer.md",
        "workflow/presets/archives.yaml",
    ],
)
def test_pages_say_how_much_the_default_sources_download(page):
    # Those of the configuration; several share a file, and only a server knows of Alexandria.
    listed = {
        get_source(name).files_name for name in load_config([REPOSITORY / "config.yaml"]).sources
    }
    sizes = {
        (row.source, row.file): row.bytes
        for row in read_catalogue(SHIPPED)
        if row.source in listed - {"alexandria"} and row.kind in ("data", "sidecar")
    }
    total = f"{sum(sizes.values()) / 1e9:.0f} GB"
    text = " ".join((REPOSITORY / page).read_text(encoding="utf-8").replace("#", "").split())
    assert f"{total} and the shards of Alexandria" in text


def test_the_shipped_catalogue_has_all_of_qm7x():
    # 9,617,360,480 bytes is the sum that the eight archives are documented to have.
    rows = [row for row in read_catalogue(SHIPPED) if row.source == "qm7x"]
    assert sum(row.bytes for row in rows if row.kind == "data") == 9_617_360_480
    assert [row.file for row in rows if row.kind == "sidecar"] == ["DupMols.dat"]


def test_a_catalogue_of_a_spreadsheet_is_read_and_other_encodings_are_named(tmp_path):
    # Spreadsheets put a mark in front of UTF-8, and \r\n behind lines.
    path = tmp_path / "sources.csv"
    text = (HEADER + GOOD.replace("Someone", "Müller")).replace("\n", "\r\n")
    path.write_bytes(text.encode("utf-8-sig"))
    assert [row.citation for row in read_catalogue(path)] == ["Müller"]
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"sources\.csv is not in UTF-8 .*save it"):
        read_catalogue(path)


def test_every_bad_row_is_named_by_its_line(tmp_path):
    path = tmp_path / "sources.csv"
    path.write_text(
        HEADER
        + GOOD
        + GOOD.replace("f.h5", "g.h5").replace(",5,", ",-5,")
        + GOOD.replace("f.h5", "h.h5").replace("https", "ftp").replace(",,,", ",abc,,")
        + GOOD
        + "a,short\n"
        + GOOD.strip()
        + ",extra\n"
        + GOOD.replace("f.h5", "*.h5").replace(",data", ",listing")
    )
    with pytest.raises(ValueError) as caught:
        read_catalogue(path)
    message = str(caught.value)
    for expected in (
        "line 3: bytes",
        "line 4: url",
        "line 4: md5",
        "line 5: a f.h5 is on line 2 already",
        "line 6: url",
        "line 7: more cells than columns",
        "line 8: kind: Value error, needs the URL of one folder, ending in '/', not https://x.org/f",
    ):
        assert expected in message
    assert "line 2:" not in message


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "sources.csv"
    path.write_text(HEADER.replace(",md5", "") + "\n")
    with pytest.raises(ValueError, match="expected source,file,url,bytes,md5"):
        read_catalogue(path)


def test_a_missing_catalogue_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.csv is missing"):
        read_catalogue(tmp_path / "nowhere.csv")
