"""Tables of data quality say what was measured, and leaky splits are labelled everywhere."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from mtlpar.core.files import read_json, write_json
from mtlpar.core.ledger import Ledger
from mtlpar.report import figures, stage
from mtlpar.report.items import table_names


def _split_by_frames(fake_run, source: str) -> None:
    path = fake_run.workspace.ledger(source)
    replace(Ledger.read(path), split_by="frames", is_leaky=True).write(path)


@pytest.mark.parametrize("name", table_names())
def test_every_table_made_of_leaky_splits_says_so(fake_run, name: str) -> None:
    stage.run(name, scope=fake_run.scope)
    path = fake_run.workspace.tables / f"{name}.md"
    assert "LEAKY" not in path.read_text(encoding="utf-8")
    _split_by_frames(fake_run, "qm7x")
    stage.run(name, scope=fake_run.scope)
    for suffix in ("md", "tex"):
        assert "LEAKY SPLITS (QM7-X)" in path.with_suffix(f".{suffix}").read_text(encoding="utf-8")


def test_every_figure_made_of_leaky_splits_says_so(fake_run, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, *_, **__: drawn.append(figure))
    _split_by_frames(fake_run, "mptrj")
    scope = fake_run.scope
    for name in ("parity_energy", "reference_energies", "learning_curves"):
        figures.write_figure(stage.get_item(name), scope)
    assert len(drawn) == 3
    assert all("LEAKY SPLITS (MPTrj)" in figure.get_suptitle() for figure in drawn)


def test_lines_of_raw_files_add_up_to_their_source(fake_run) -> None:
    stage.run("ledger_files", scope=fake_run.scope)
    path = fake_run.workspace.tables / "ledger_files.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows[:2]] == ["ani1x.raw", "total"]
    for file, total in zip(rows[::2], rows[1::2], strict=True):
        assert {**file, "file": "total"} == total
        assert total["lost"] == "0"


def test_what_was_skipped_of_a_damaged_file_stands_in_its_line(fake_run) -> None:
    # Rows behind the damage are in no sum: without these words the books would look complete.
    path = fake_run.workspace.ledger("mptrj")
    ledger = Ledger.read(path)
    ledger.files["mptrj.raw"].damage = ["mptrj.raw is cut off, the last key begun was mp-7/b"]
    ledger.write(path)
    for name in ("ledger", "ledger_files"):
        stage.run(name, scope=fake_run.scope)
    folder = fake_run.workspace.tables
    assert "last key begun was mp-7/b" in (folder / "ledger_files.csv").read_text(encoding="utf-8")
    assert "skipped: mptrj.raw is cut off" in (folder / "ledger_files.md").read_text("utf-8")
    assert "damaged files: 1" in (folder / "ledger.md").read_text(encoding="utf-8")


def test_a_check_that_does_not_apply_is_not_a_number(fake_run) -> None:
    stage.run("checks", scope=fake_run.scope)
    text = (fake_run.workspace.tables / "checks.md").read_text(encoding="utf-8")
    alexandria = next(line for line in text.splitlines() if line.startswith("| Alexandria"))
    assert "n/a" in alexandria


def test_a_comparison_of_other_sources_is_no_clean_bill(fake_run) -> None:
    # What was not compared stood as zeros in the table.
    path = fake_run.workspace.leaks
    content = read_json(path)
    write_json(path, {**content, "sources": [s for s in content["sources"] if s != "qm7x"]})
    with pytest.raises(ValueError, match=r"leaks\.json compares .*but not qm7x; run mtlpar leaks"):
        stage.run("leaks", scope=fake_run.scope)


def test_splits_of_a_source_that_has_left_the_run_are_no_leaks(fake_run) -> None:
    # No model learns from it, so what a test split shares with it is not known to any.
    path = fake_run.workspace.leaks
    content = read_json(path)
    pair = {**content["pairs"][0], "test": "qm7x", "train": "gone", "same_geometry": 987_654}
    sources = [*content["sources"], "gone"]
    write_json(path, {"sources": sources, "pairs": [*content["pairs"], pair]})
    stage.run("leaks", scope=fake_run.scope)
    text = (fake_run.workspace.tables / "leaks.csv").read_text("utf-8")
    assert "gone" not in text
    assert "987,654" not in (fake_run.workspace.tables / "leaks.md").read_text("utf-8")


def test_where_there_is_no_other_source_nothing_is_counted_as_shared_with_one(fake_run) -> None:
    # A zero would say that it had been looked for.
    path = fake_run.workspace.leaks
    content = read_json(path)
    own = [pair for pair in content["pairs"] if pair["test"] == pair["train"] == "qm7x"]
    write_json(path, {"sources": ["qm7x"], "pairs": own})
    stage.run("leaks", scope=replace(fake_run.scope, sources=("qm7x",)))
    text = (fake_run.workspace.tables / "leaks.md").read_text("utf-8")
    (row,) = (line for line in text.splitlines() if line.startswith("| QM7-X"))
    assert [cell.strip() for cell in row.strip("| ").split("|")][-3:] == ["–", "–", "–"]
    assert "–: there is no other source." in text
