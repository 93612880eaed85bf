"""Files are whole or absent."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
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


_KILLED = """
import os, sys
from pathlib import Path
from mtlpar.core.files import atomic_path, scratch_folder
with scratch_folder(Path(sys.argv[1]) / "runs"), atomic_path(Path(sys.argv[1]) / "a.json") as half:
    half.mkdir()
    (half / "part").touch()
    half.with_name(half.name + "-journal").touch()
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_goes_with_the_next_output(tmp_path: Path) -> None:
    # Another output even: nobody may ever write the one that was cut short again.
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    # A database under a temporary name has a journal beside it.
    assert len(list(tmp_path.glob(".*.tmp*"))) == 3
    write_json(tmp_path / "b.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    here = socket.gethostname()
    theirs = [
        # Of a process that lives, of another machine, and of another program.
        tmp_path / f".a.json.{here}-{os.getppid()}.tmp",
        tmp_path / f".a.json.not-{here}-9999999.tmp",
        tmp_path / f".a.json.{here}.tmp",
    ]
    for path in theirs:
        path.touch()
    write_json(tmp_path / "a.json", {})
    assert sorted(tmp_path.glob(".*.tmp")) == sorted(theirs)
