"""The report as one HTML page that needs nothing else: tables, figures and captions."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final

from mtlpar.core.files import missing, write_text
from mtlpar.report.grid import to_csv, to_html
from mtlpar.report.items import Item, Scope, outputs_of
from mtlpar.report.leaky import leaky_note
from mtlpar.report.tables import make_table

# What a reader looks for first; everything else follows in its own order.
_FIRST: Final = ("table1", "table2", "heatmap_energy", "heatmap_force")
_SECTIONS: Final = {"Results": "Results", "Data": "Quality of the data"}
_MARKUP: Final = (
    (re.compile(r"``(.+?)``", re.DOTALL), r"<code>\1</code>"),
    (re.compile(r"\*\*(.+?)\*\*", re.DOTALL), r"<strong>\1</strong>"),
    (re.compile(r"\*(.+?)\*", re.DOTALL), r"<em>\1</em>"),
)
_STYLE: Final = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; color: #222; background: white;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
h3 { margin: 2rem 0 .3rem; font-size: 1.1rem; }
nav ul { columns: 16rem; padding-left: 1.2rem; } nav p { margin: .5rem 0 0; font-weight: bold; }
a { color: #0060a0; } nav a { line-height: 1.8; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; border-top: 2px solid #333; border-bottom: 2px solid #333;
  font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: left; vertical-align: top; font-weight: normal; }
thead th { font-weight: 600; border-bottom: 1px solid #333; vertical-align: bottom; }
tbody + tbody { border-top: 1px solid #333; }
tbody tr:nth-child(even) { background: #f5f7f9; }
th:first-child { position: sticky; left: 0; background: white; }
tbody tr:nth-child(even) th { background: #f5f7f9; }
.r { text-align: right; white-space: nowrap; } .l { white-space: nowrap; } .p { min-width: 16rem; }
.pad { visibility: hidden; }
img { max-width: 100%; height: auto; }
.caption { max-width: 48rem; color: #444; font-size: .9rem; }
.warning { padding: .5rem .8rem; border-left: 4px solid #b00020; background: #fdf0f2; }
@media (max-width: 40rem) { body { padding: .6rem; } img { max-width: none; min-width: 34rem; }
  tbody th { white-space: normal; } }
"""


def write_page(path: Path, items: Iterable[Item], scope: Scope, *, captions: Path) -> None:
    """Write tables and figures as one file: results first, then the quality of the data.

    Args:
        path: The page.
        items: Tables and figures of the run; figures must have been drawn.
        scope: What the report is about.
        captions: Folder with a caption for each item, ``NAME.rst``.

    Raises:
        ValueError: If an input or a figure is missing or not usable.
    """
    ordered = sorted(items, key=lambda one: _FIRST.index(one.name) if one.name in _FIRST else 99)
    parts = {
        category: [one for one in ordered if one.category == category] for category in _SECTIONS
    }
    note = leaky_note(scope)
    warning = [f'<p class="warning">{escape(note)}.</p>'] if note else []
    sections = [
        line
        for category, members in parts.items()
        for line in (
            f"<h2>{_SECTIONS[category]}</h2>",
            *(_section(one, scope, captions / f"{one.name}.rst") for one in members),
        )
    ]
    title = "mtlpar: results of this run"
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        *warning,
        *_contents(parts),
        *sections,
        *_places(scope),
        "</body></html>",
        "",
    ]
    write_text(path, "\n".join(lines))


def _contents(parts: dict[str, list[Item]]) -> list[str]:
    lines = ["<nav><details><summary>Contents</summary>"]
    for category, members in parts.items():
        links = (f'<li><a href="#{one.name}">{escape(one.title)}</a></li>' for one in members)
        lines += [f"<p>{_SECTIONS[category]}</p>", "<ul>", *links, "</ul>"]
    return [*lines, "</details></nav>"]


def _section(item: Item, scope: Scope, caption: Path) -> str:
    if item.kind == "table":
        rows, grid = make_table(item, scope)
        shown = to_html(grid)
        link = _download(f"{item.name}.csv", "text/csv;charset=utf-8", to_csv(rows).encode())
    else:
        png, svg = outputs_of(item.name, scope.workspace)
        source = _data_url("image/png", _read(png))
        shown = f'<img src="{source}" alt="{escape(item.title)}">'
        link = _download(svg.name, "image/svg+xml", _read(svg))
    return "\n".join(
        [
            f'<section id="{item.name}">',
            f"<h3>{escape(item.title)}</h3>",
            # Keyboards scroll only what they can focus.
            f'<div class="scroll" tabindex="0">{shown}</div>',
            f'<p class="caption">{_rendered(caption.read_text(encoding="utf-8"))} {link}</p>',
            "</section>",
        ]
    )


def _places(scope: Scope) -> list[str]:
    work = scope.workspace
    tables, figures, example = (
        f"<code>{escape(text)}</code>"
        for text in (
            str(work.tables),
            str(work.figures),
            f"mtlpar provenance {work.tables / 'table1.csv'}",
        )
    )
    return [
        "<h2>Where everything is</h2>",
        f"<p>Tables as CSV, Markdown and LaTeX: {tables}. Figures as PNG and SVG: {figures}. "
        f"Where a file came from, down to the raw data: {example}.</p>",
    ]


def _rendered(caption: str) -> str:
    """A caption with the few marks that captions use."""
    text = escape(caption.strip(), quote=False)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text


def _download(name: str, kind: str, content: bytes) -> str:
    suffix = name.rpartition(".")[2].upper()
    return f'<a download="{name}" href="{_data_url(kind, content)}">Download {suffix}</a>'


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(missing(path, "report")) from None
