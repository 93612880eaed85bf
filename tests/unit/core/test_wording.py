"""Messages say "1 rank" and "2 ranks", never "2 rank(s)"."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mtlpar
from mtlpar.core.wording import counted


@pytest.mark.parametrize(
    ("number", "what", "text"),
    [
        (1, "rank", "1 rank"),
        (0, "rank", "0 ranks"),
        (2, "branch", "2 branches"),
        (1200, "structure", "1,200 structures"),
        (2, "energy", "2 energies"),
        (2, "key", "2 keys"),
        (2, "epoch", "2 epochs"),
        (2, "suffix", "2 suffixes"),
    ],
)
def test_what_is_counted_is_in_the_number_that_is_said(number: int, what: str, text: str) -> None:
    assert counted(number, what) == text


def test_no_text_leaves_it_to_the_reader_whether_there_is_one_or_several() -> None:
    # A lower-case word and "(s)"; "Epoch (s)" is a unit and "http(s)" two protocols.
    guess = re.compile(r"\b(?!http\b)[a-z]+\(e?s\)")
    texts = (
        path.read_text(encoding="utf-8") for path in Path(mtlpar.__file__).parent.rglob("*.py")
    )
    # Parsing takes long: most files need none.
    found = [
        node.value
        for text in texts
        if guess.search(text)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if guess.search(node.value)
    ]
    assert found == []
