"""Tables of the ledger: where every row went, by source and by raw file."""

from __future__ import annotations

from collections.abc import Mapping

from mtlpar.core.fields import LABELS, SPLITS
from mtlpar.core.ledger import Ledger
from mtlpar.report.grid import Cell, CsvRow, Grid
from mtlpar.report.names import TOTAL, reason_text, source_title

_WITHOUT = tuple(f"kept_without_{label}" for label in LABELS)
_HEADER = ("Rows", *(split.capitalize() for split in SPLITS), "Dropped", "Lost", "By reason")


def ledger_rows(ledgers: Mapping[str, Ledger]) -> list[CsvRow]:
    """The ledgers with machine names, a column per reason, a total, and what is left over."""
    total = Ledger.total(ledgers.values())
    reasons = sorted(total.dropped)
    rows: list[CsvRow] = [(name, *_numbers(ledger, reasons)) for name, ledger in ledgers.items()]
    dropped = (f"dropped_{reason}" for reason in reasons)
    return [
        ("source", "rows", *SPLITS, *dropped, "lost", *_WITHOUT),
        *rows,
        (TOTAL, *_numbers(total, reasons)),
    ]


def file_rows(ledgers: Mapping[str, Ledger]) -> list[CsvRow]:
    """The ledgers of all raw files with machine names, and a total for each source."""
    reasons = sorted(Ledger.total(ledgers.values()).dropped)
    rows: list[CsvRow] = [
        (source, name, *_numbers(ledger, reasons), "; ".join(ledger.damage))
        for source, of_source in ledgers.items()
        for name, ledger in {**of_source.files, TOTAL: of_source}.items()
    ]
    dropped = (f"dropped_{reason}" for reason in reasons)
    return [("source", "file", "rows", *SPLITS, *dropped, "lost", *_WITHOUT, "damage"), *rows]


def ledger_grid(ledgers: Mapping[str, Ledger]) -> Grid:
    """The ledgers for people."""
    named = {source_title(source): ledger for source, ledger in ledgers.items()}
    named["Total"] = Ledger.total(ledgers.values())
    return Grid(
        label="ledger",
        title="Ledger",
        caption="Where every row of the raw files went: rows = train + val + test + dropped + "
        "lost, in structures; lost must be 0.",
        columns="lrrrrrrp",
        header=("Source", *_HEADER),
        rows=tuple((Cell(title), *_cells(ledger)) for title, ledger in named.items()),
        last_rows=1,
    )


def file_grid(ledgers: Mapping[str, Ledger]) -> Grid:
    """The ledgers of all raw files for people, with a total for each source."""
    rows = [
        (Cell(source_title(source)), Cell(name, bold=ledger is of_source), *_cells(ledger))
        for source, of_source in ledgers.items()
        for name, ledger in {**of_source.files, "Total": of_source}.items()
    ]
    return Grid(
        label="ledger_files",
        title="Ledger of the raw files",
        caption="Where every row of every raw file went: rows = train + val + test + dropped + "
        "lost, in structures; lost must be 0. Skipped: what could not be read; rows behind it are "
        "not known and not counted.",
        columns="llrrrrrrp",
        header=("Source", "File", *_HEADER),
        rows=tuple(rows),
    )


def _numbers(ledger: Ledger, reasons: list[str]) -> tuple[int, ...]:
    splits = (ledger.splits[split] for split in SPLITS)
    dropped = (ledger.dropped[reason] for reason in reasons)
    without = (ledger.without[label] for label in LABELS)
    return (ledger.rows, *splits, *dropped, ledger.lost, *without)


def _cells(ledger: Ledger) -> tuple[Cell, ...]:
    splits = (ledger.splits[split] for split in SPLITS)
    numbers = (ledger.rows, *splits, sum(ledger.dropped.values()), ledger.lost)
    reasons = sorted(ledger.dropped.items(), key=lambda entry: (-entry[1], entry[0]))
    by_reason = ", ".join(f"{reason_text(name)} {count:,}" for name, count in reasons if count)
    text = "; ".join([by_reason or "none", *_kept_without(ledger), *_damage(ledger)])
    return (*(Cell(f"{number:,}") for number in numbers), Cell(text))


def _kept_without(ledger: Ledger) -> list[str]:
    """Labels that some structures in the splits lack; stresses only where others have one."""
    kept = sum(ledger.splits.values())
    lacking = {label: ledger.without[label] for label in LABELS if ledger.without[label]}
    if lacking.get("stress") == kept:
        del lacking["stress"]
    listed = ", ".join(f"{label} {count:,}" for label, count in lacking.items())
    return [f"kept without {listed}"] if listed else []


def _damage(ledger: Ledger) -> list[str]:
    """What was skipped of a raw file, or how many files of a source that concerns."""
    damaged = sum(bool(of_file.damage) for of_file in ledger.files.values())
    of_source = [f"damaged files: {damaged}"] if damaged else []
    return [*of_source, *(f"skipped: {one}" for one in ledger.damage)]
