"""What `mtlpar init` writes into a folder, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtlpar.cli import main
from mtlpar.flow.project import CONTENTS


def test_init_overwrites_nothing_and_writes_no_sample_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "new")]) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(CONTENTS)
    assert not (tmp_path / "new" / "workflow" / "sample").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("seed: 1\n")
    assert main(["init", str(tmp_path / "mine")]) == 1
    assert "already has config.yaml" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["config.yaml"]
