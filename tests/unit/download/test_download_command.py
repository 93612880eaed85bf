"""`mtlpar download` as users type it."""

import pytest

from mtlpar.cli import main

CONFIG = """
sources: [ani1x]
models: {m: {branches: {all: [ani1x]}}}
"""


@pytest.fixture
def download(tmp_path, server, catalogue, monkeypatch):
    # Not in the checkout, over whose config.yaml this one would lie.
    monkeypatch.chdir(tmp_path)
    server.files["/a"] = b"data"
    table = catalogue(("ani1x", "ani1x-release.h5", "/a", "data"))
    config = tmp_path / "config.yaml"
    config.write_text(
        f"{CONFIG}paths: {{raw: {tmp_path / 'raw'}, catalogue: {table}}}\ndownload: {{retries: 0}}"
    )

    def run(*options):
        return main(["download", "--config", str(config), *options])

    return run


def test_a_file_comes_is_shown_and_is_locked(download, tmp_path, capsys):
    assert download("--list") == 0
    assert "none yet" in capsys.readouterr().out
    assert not (tmp_path / "raw").exists()
    assert download() == 0
    assert (tmp_path / "raw/ani1x/ani1x-release.h5").read_bytes() == b"data"
    download("--list")
    assert "all here" in capsys.readouterr().out


def test_a_replaced_file_is_accepted_by_one_option(download, tmp_path, server, capsys):
    download()
    (tmp_path / "raw/ani1x/ani1x-release.h5").unlink()
    server.files["/a"] = b"edit"
    assert download() == 1
    assert "--relock" in capsys.readouterr().err
    assert download("--relock") == 0
    assert (tmp_path / "raw/ani1x/ani1x-release.h5").read_bytes() == b"edit"


def test_accepting_and_keeping_at_once_is_refused(download, capsys):
    with pytest.raises(SystemExit):
        download("--relock", "--locked")
    assert "not allowed with" in capsys.readouterr().err
