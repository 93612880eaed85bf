"""Every benchmark still goes with the code that it measures, as far as names and options."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_explains_itself(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nothing else imports them: a renamed function would be found by the next who measures.
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(str(script.parent))
    if "__main__" not in script.read_text(encoding="utf-8"):
        runpy.run_path(str(script))
        return
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out
