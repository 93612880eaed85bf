"""Files are whole or absent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtlpar.core.files import atomic_path, read_json, write_json
from mtlpar.core.ledger import Ledger


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail_halfway() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half of the new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_replaces_a_folder_completely(tmp_path: Path) -> None:
    target = tmp_path / "pack.bp"
    target.mkdir()
    (target / "stale").write_text("from an earlier run")
    with atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "fresh").write_text("new")
    assert [path.name for path in target.iterdir()] == ["fresh"]


def test_json_refuses_nan_because_other_readers_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"mae": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_missing_json_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run the stage that writes it"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="run mtlpar leaks first"):
        read_json(tmp_path / "absent.json", stage="leaks")


def test_a_relative_path_that_is_missing_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As --config /elsewhere/config.yaml, whose paths are not relative to that file.
    monkeypatch.chdir(tmp_path)
    where = re.escape(f"missing in {tmp_path}, where mtlpar was started; run mtlpar download first")
    with pytest.raises(ValueError, match=where):
        read_json(Path("data/raw/qm7x/manifest.json"), stage="download")


def test_ledger_that_loses_a_row_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(rows=10, splits={"train": 7, "val": 1, "test": 1})
    with pytest.raises(ValueError, match="does not balance"):
        ledger.write(tmp_path / "qm7x.json")
    ledger.dropped["duplicate"] = 1
    ledger.write(tmp_path / "qm7x.json")
    assert Ledger.read(tmp_path / "qm7x.json").as_dict("qm7x") == ledger.as_dict("qm7x")
