"""The HTML page holds everything of a run and needs nothing else."""

from __future__ import annotations

import base64
import csv
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mtlpar.report import stage
from mtlpar.report.grid import Cell, Grid, to_html
from mtlpar.report.items import items_of, outputs_of

CAPTIONS = Path(__file__).parents[3] / "workflow" / "report"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Reads a page; an element that is closed out of order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.downloads: dict[str, bytes] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.ids.append(given["id"])
        address = given.get("src") or given.get("href")
        if address:
            self.addresses.append(address)
        if "download" in given:
            content = base64.b64decode(given["href"].partition("base64,")[2])
            self.downloads[given["download"]] = content
        if tag == "table":
            self.tables[self.ids[-1]] = []
        if tag == "tr":
            self.tables[self.ids[-1]].append([])
        if tag in ("th", "td"):
            self.tables[self.ids[-1]][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "table" in self.open and "td" in self.open and "span" not in self.open:
            self.tables[self.ids[-1]][-1][-1] += data


def test_the_page_holds_every_item_and_its_numbers_and_loads_nothing(fake_run, tmp_path) -> None:
    items = items_of(with_stress=True)
    for item in items:
        if item.kind == "table":
            stage.run(item.name, scope=fake_run.scope)
        else:
            for path in outputs_of(item.name, fake_run.workspace):
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(f"{path.name}, drawn".encode())

    stage.write_html(tmp_path / "report.html", fake_run.scope, captions=CAPTIONS, with_stress=True)

    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not page.open
    assert sorted(page.ids) == sorted(item.name for item in items)
    assert page.ids[:4] == ["table1", "table2", "heatmap_energy", "heatmap_force"]
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    for item in items:
        csv_or_png, *_, svg = outputs_of(item.name, fake_run.workspace)
        kept = csv_or_png if item.kind == "table" else svg
        assert page.downloads[kept.name] == kept.read_bytes()
    # The same numbers, as people read them: three digits.
    text = page.downloads["table1.csv"].decode()
    exact = [row[1:] for row in list(csv.reader(io.StringIO(text)))[1:]]
    shown = [row[1:] for row in page.tables["table1"][1:]]
    assert [[float(cell) for cell in row] for row in shown] == [
        [pytest.approx(float(cell), rel=5.1e-3) for cell in row] for row in exact
    ]


def test_a_figure_that_was_not_drawn_is_named(fake_run, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"heatmap_energy\.png"):
        stage.write_html(
            tmp_path / "report.html", fake_run.scope, captions=CAPTIONS, with_stress=True
        )


def test_names_with_marks_of_html_are_shown_as_they_are() -> None:
    rows = ((Cell("<a&b>"), Cell("0.50", bold=True)), (Cell("b"), Cell("10")))
    grid = Grid(label="t", title="T", caption="C", columns="lr", header=("<h>", "x"), rows=rows)

    html = to_html(grid)

    assert '<th scope="row" class="l">&lt;a&amp;b&gt;</th>' in html
    assert "<strong>0.50</strong>" in html
    assert "&lt;h&gt;" in html
