"""Numbers and tables on the page."""

from __future__ import annotations

import re

import pytest

from mtlpar.report.grid import (
    Cell,
    Grid,
    escape_latex,
    format_number,
    to_latex,
    to_markdown,
    to_text,
)

GRID = Grid(
    label="x",
    title="Error (eV/Å)",
    caption="100% of a_b.",
    columns="lr",
    header=("Model", "my_source"),
    rows=(
        (Cell("A_1"), Cell("1.23", bold=True)),
        (Cell("B"), Cell("0.0456")),
        (Cell("Zero"), Cell("123")),
    ),
    last_rows=1,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.012345, "0.0123"),
        (0.09996, "0.100"),
        (1.0, "1.00"),
        (9.999, "10.0"),
        (123.4, "123"),
        (1234.0, "1230"),
        (0.00012345, "0.000123"),
        (0.000012345, "1.23e-5"),
        (1.5e9, "1.50e9"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert format_number(value) == text


def test_latex_escapes_what_latex_would_read() -> None:
    assert escape_latex(r"a_b & 5% #1 ${x}^~\Å") == (
        r"a\_b \& 5\% \#1 \$\{x\}\textasciicircum{}\textasciitilde{}\textbackslash{}\AA{}"
    )


def test_latex_is_a_whole_booktabs_table() -> None:
    text = to_latex(GRID)

    for part in (r"\toprule", r"\bottomrule", r"\caption{", r"\label{tab:x}", r"my\_source"):
        assert text.count(part) == 1
    assert text.count(r"\midrule") == 2
    assert r"100\% of a\_b." in text
    assert r"A\_1 & \textbf{1.23}\phantom{00} \\" in text
    assert text.count("{") == text.count("}")
    assert not re.search(r"(?<!\\)[_%#$]", text)
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert begun == ended[::-1]


@pytest.mark.parametrize(("render", "mark"), [(to_markdown, "**1.23**"), (to_text, "1.23*")])
def test_decimal_points_stand_below_each_other(render, mark: str) -> None:
    lines = render(GRID).splitlines()
    marked = next(line for line in lines if mark in line)
    other = next(line for line in lines if "0.0456" in line)

    assert marked.index("1.23") + 1 == other.index("0.0456") + 1


def test_markdown_rows_have_equal_width_and_number_of_cells() -> None:
    lines = [line for line in to_markdown(GRID).splitlines() if line.startswith("|")]

    assert len(lines) == 5
    assert len({(len(line), line.count("|")) for line in lines}) == 1
    assert lines[1].endswith(":|") or lines[1].endswith(": |")
