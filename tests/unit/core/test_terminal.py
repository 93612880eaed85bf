"""What a terminal cannot show is shown in ASCII."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from helpers import REPOSITORY

from mtlpar.cli import main
from mtlpar.core.terminal import in_ascii


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1 eV/Å and 3 Å² × 2", "0.1 eV/A and 3 A2 x 2"),
        ("│ 1 │\n└───┘", "| 1 |\n+---+"),
        ("▁▄█", "_-#"),
        ("⠀⣀⠉", " **"),
        ("1–2 ± 0.3…", "1-2 +- 0.3..."),
        ("Schrödinger", "Schrodinger"),
        ("原子", "??"),
    ],
)
def test_text_keeps_its_meaning_and_tables_their_columns(text: str, expected: str) -> None:
    assert in_ascii(text) == expected


def test_all_that_the_library_prints_is_like_something_in_ascii() -> None:
    # A question mark in a unit or a table says nothing.
    files = [*(REPOSITORY / "src").rglob("*.py")]
    used = {one for path in files for one in set(path.read_text("utf-8")) if not one.isascii()}
    assert {"Å", "█"} <= used
    assert [one for one in sorted(used) if in_ascii(one) == "?"] == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_commands_print_on_any_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Python's own substitutes are a question mark on one stream and \xc5 on the other.
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert main(["schema"]) == 0
    angstrom = {"ascii": "A", "latin-1": "Å", "utf-8": "Å"}[encoding]
    assert f"eV/{angstrom}" in written.getvalue().decode(encoding)


@pytest.mark.parametrize(("argument", "utf8"), [("ω", "0"), (b"caf\xe9", "1")])
def test_an_argument_that_is_not_text_is_named_by_its_bytes(
    argument: str | bytes, utf8: str
) -> None:
    # It would travel as surrogates, until the first record or file that has to be in UTF-8.
    done = subprocess.run(
        [sys.executable, "-m", "mtlpar", "inspect", argument],
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": utf8},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    shown = argument.encode() if isinstance(argument, str) else argument
    assert repr(shown) in done.stderr
    assert "LC_ALL=C.UTF-8" in done.stderr
