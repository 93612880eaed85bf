"""One table, and its ways onto a page: CSV, Markdown, LaTeX, HTML and plain text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Final

from mtlpar.core.files import write_text

_SIGNIFICANT = 3
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -4, 5
_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "Å": r"\AA{}",
    "–": "--",
}
_LATEX_COLUMNS: Final = {"l": "l", "r": "r", "p": r"p{0.2\linewidth}"}


CsvRow = tuple[str | int | float, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry of a table."""

    text: str
    bold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table for people.

    Attributes:
        label: Name to refer to it by.
        title: What it shows, in a few words.
        caption: What it shows, in sentences.
        columns: Alignment of each column: ``l``, ``r`` (numbers, aligned at the decimal point) or
            ``p`` (running text).
        header: Names of the columns.
        rows: The rows.
        last_rows: How many rows at the end are set off by a rule.
    """

    label: str
    title: str
    caption: str
    columns: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    last_rows: int = 0


def text_row(*texts: str) -> tuple[Cell, ...]:
    """A row of plain texts."""
    return tuple(Cell(text) for text in texts)


def write_grid(
    folder: Path, name: str, grid: Grid, *, rows: Sequence[CsvRow] | None = None
) -> None:
    """Write a table as CSV, Markdown and LaTeX.

    Args:
        folder: Where to write.
        name: Stem of the files.
        grid: The table.
        rows: What the CSV holds, head and rows, if it is not what people read.
    """
    if rows is None:
        rows = [grid.header, *(tuple(cell.text for cell in row) for row in grid.rows)]
    write_text(folder / f"{name}.csv", to_csv(rows))
    write_text(folder / f"{name}.md", to_markdown(grid))
    write_text(folder / f"{name}.tex", to_latex(grid))


def format_number(value: float) -> str:
    """Write a number with three significant digits, without an exponent where that is readable.

    What is no number was not measured, and is a dash.
    """
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    digits, _, exponent_text = f"{value:.{_SIGNIFICANT - 1}e}".partition("e")
    exponent = int(exponent_text)
    if not _SMALLEST_EXPONENT <= exponent <= _LARGEST_EXPONENT:
        return f"{digits}e{exponent}"
    rounded = float(f"{digits}e{exponent}")
    return f"{rounded:.{max(0, _SIGNIFICANT - 1 - exponent)}f}"


def escape_latex(text: str) -> str:
    """Write any text so that LaTeX prints it as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_csv(rows: Sequence[CsvRow]) -> str:
    """Write rows as comma-separated values."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def to_markdown(grid: Grid) -> str:
    """Write a table as Markdown, readable as plain text too."""
    rows = _decorated(grid, lambda text: f"**{text}**", _blank, plain="  ")
    texts = [[text.replace("|", r"\|") for text in row] for row in (grid.header, *rows)]
    widths = [max(3, *(len(text) for text in column)) for column in zip(*texts, strict=True)]
    rule = [
        "-" * (width - 1) + ":" if align == "r" else "-" * width
        for width, align in zip(widths, grid.columns, strict=True)
    ]
    lines = [_justified(row, widths, grid.columns) for row in texts]
    body = [f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])]
    return "\n".join([f"**{grid.title}.** {grid.caption}", "", *body, ""])


def to_latex(grid: Grid) -> str:
    """Write a table as a LaTeX fragment that needs the package ``booktabs``."""
    escaped = replace(
        grid,
        header=tuple(escape_latex(text) for text in grid.header),
        rows=tuple(
            tuple(Cell(escape_latex(cell.text), cell.bold) for cell in row) for row in grid.rows
        ),
    )
    rows = _decorated(escaped, lambda text: rf"\textbf{{{text}}}", _phantom)
    lines = [" & ".join(row) + r" \\" for row in (escaped.header, *rows)]
    first_of_last = len(lines) - grid.last_rows
    body = [lines[0], r"\midrule", *lines[1:first_of_last]]
    if grid.last_rows:
        body += [r"\midrule", *lines[first_of_last:]]
    columns = "".join(_LATEX_COLUMNS[align] for align in grid.columns)
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            r"  \small",
            rf"  \caption{{{escape_latex(f'{grid.title}. {grid.caption}')}}}",
            rf"  \label{{tab:{grid.label}}}",
            rf"  \begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            *(f"    {line}" for line in (r"\toprule", *body, r"\bottomrule")),
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_html(grid: Grid) -> str:
    """Write a table as an HTML element, aligned at the decimal points as everywhere."""
    rows = _decorated(_escaped_for_html(grid), lambda text: f"<strong>{text}</strong>", _hidden)
    first_of_last = len(rows) - grid.last_rows
    head = "".join(
        f'<th scope="col" class="{align}">{escape(text)}</th>'
        for text, align in zip(grid.header, grid.columns, strict=True)
    )
    bodies = [rows[:first_of_last], rows[first_of_last:]]
    parts = [f"<thead><tr>{head}</tr></thead>"]
    for body in filter(None, bodies):
        lines = (_html_row(row, grid.columns) for row in body)
        parts.append("\n".join(["<tbody>", *lines, "</tbody>"]))
    return "\n".join(["<table>", *parts, "</table>"])


def to_text(grid: Grid) -> str:
    """Write a table for a terminal; an asterisk takes the place of bold."""
    rows = _decorated(grid, lambda text: f"{text}*", _blank, plain=" ")
    texts = [list(grid.header), *rows]
    widths = [max(len(text) for text in column) for column in zip(*texts, strict=True)]
    lines = ["  ".join(_justified(row, widths, grid.columns)).rstrip() for row in texts]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    body = [lines[0], rule, *lines[1:]]
    if grid.last_rows:
        body.insert(len(body) - grid.last_rows, rule)
    return "\n".join([grid.title, *body, ""])


def _decorated(
    grid: Grid, bold: Callable[[str], str], pad: Callable[[str], str], *, plain: str = ""
) -> list[list[str]]:
    """Mark bold cells, and fill up numbers so that right-justified decimal points align."""
    columns: list[list[str]] = []
    for align, cells in zip(grid.columns, zip(*grid.rows, strict=True), strict=True):
        fractions = [_fraction(cell.text) for cell in cells]
        longest = max(map(len, fractions)) if align == "r" else 0
        unmarked = plain if align == "r" and any(cell.bold for cell in cells) else ""
        columns.append(
            [
                (bold(cell.text) if cell.bold else cell.text + unmarked)
                + pad(("." + "0" * longest)[len(fraction) : longest])
                for cell, fraction in zip(cells, fractions, strict=True)
            ]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def _escaped_for_html(grid: Grid) -> Grid:
    rows = tuple(tuple(Cell(escape(cell.text), cell.bold) for cell in row) for row in grid.rows)
    return replace(grid, rows=rows)


def _html_row(row: Sequence[str], columns: str) -> str:
    first, *others = zip(row, columns, strict=True)
    cells = "".join(f'<td class="{align}">{text}</td>' for text, align in others)
    return f'<tr><th scope="row" class="{first[1]}">{first[0]}</th>{cells}</tr>'


def _hidden(missing: str) -> str:
    return f'<span class="pad" aria-hidden="true">{missing}</span>' if missing else ""


def _fraction(text: str) -> str:
    _, point, digits = text.partition(".")
    return point + digits


def _blank(missing: str) -> str:
    return " " * len(missing)


def _phantom(missing: str) -> str:
    return rf"\phantom{{{missing}}}" if missing else ""


def _justified(row: Sequence[str], widths: Sequence[int], columns: str) -> list[str]:
    return [
        text.rjust(width) if align == "r" else text.ljust(width)
        for text, width, align in zip(row, widths, columns, strict=True)
    ]
