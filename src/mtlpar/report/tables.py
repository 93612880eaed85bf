"""Writes all tables; those of errors, shaped like the paper's, are made here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mtlpar.report.branches import branch_grid, branch_rows
from mtlpar.report.grid import (
    Cell,
    CsvRow,
    Grid,
    format_number,
    to_text,
    write_grid,
)
from mtlpar.report.items import ITEMS, Item, Scope
from mtlpar.report.leaky import label_grid, leaky_note
from mtlpar.report.ledger_table import file_grid, file_rows, ledger_grid, ledger_rows
from mtlpar.report.load import ErrorTable, read_errors, read_ledgers
from mtlpar.report.names import ZERO_NAME, ZERO_TITLE, model_titles, source_title
from mtlpar.report.quality_tables import (
    check_grid,
    check_rows,
    leak_grid,
    leak_rows,
    reference_grid,
    reference_rows,
)
from mtlpar.report.uncertainty import uncertainty_grid, uncertainty_rows

MEAN: Final = "mean"
_SUMMARY: Final = ("table1", "table2")

_OF_LEDGERS: Final = {
    "ledger": (ledger_rows, ledger_grid),
    "ledger_files": (file_rows, file_grid),
}
_OF_SCOPE: Final = {
    "branches": (branch_rows, branch_grid),
    "uncertainty": (uncertainty_rows, uncertainty_grid),
    "checks": (check_rows, check_grid),
    "leaks": (leak_rows, leak_grid),
    "references": (reference_rows, reference_grid),
}


def write_table(item: Item, scope: Scope) -> None:
    """Write a table as CSV, Markdown and LaTeX.

    Raises:
        ValueError: If an input is missing or not usable.
    """
    rows, grid = make_table(item, scope)
    write_grid(scope.workspace.tables, item.name, grid, rows=rows)


def make_table(item: Item, scope: Scope) -> tuple[list[CsvRow], Grid]:
    """A table with machine names and all digits, and the same for people.

    Raises:
        ValueError: If an input is missing or not usable.
    """
    if item.quantity is None:
        rows, grid = _data_table(item.name, scope)
    else:
        table = read_errors(
            item.quantity,
            workspace=scope.workspace,
            models=tuple(scope.models),
            sources=scope.sources,
        )
        rows = error_rows(table)
        grid = error_grid(table, models=scope.models, label=item.name)
    return rows, label_grid(grid, leaky_note(scope))


def _data_table(name: str, scope: Scope) -> tuple[list[CsvRow], Grid]:
    """A table of no single error, with machine names and for people."""
    if name in _OF_LEDGERS:
        ledgers = read_ledgers(workspace=scope.workspace, sources=scope.sources)
        of_rows, of_grid = _OF_LEDGERS[name]
        return of_rows(ledgers), of_grid(ledgers)
    rows, grid = _OF_SCOPE[name]
    return rows(scope), grid(scope)


def summary_text(scope: Scope, *, report: Path | None = None) -> str:
    """Tables 1 and 2 for a terminal, and where everything else is.

    Args:
        scope: What the report is about.
        report: The HTML report, if there is one.

    Raises:
        ValueError: If a metrics file is missing or not usable.
    """
    parts: list[str] = []
    for name in _SUMMARY:
        quantity = ITEMS[name].quantity
        assert quantity is not None
        table = read_errors(
            quantity,
            workspace=scope.workspace,
            models=tuple(scope.models),
            sources=scope.sources,
        )
        parts.append(to_text(error_grid(table, models=scope.models, label=name)))
    work = scope.workspace
    places = {"report": report, "tables": work.tables, "figures": work.figures}
    parts.append("* best of its column; predicting zero does not compete\n")
    parts.append("".join(f"{name + ':':<9}{path}\n" for name, path in places.items() if path))
    return "\n".join(parts)


def mean_error(errors: Mapping[str, float], zero: Mapping[str, float]) -> float:
    """Mean over the test sets that have the label, each counting the same; NaN if one is missing.

    Args:
        errors: Error by source.
        zero: Error of predicting zero by source, NaN where there is no label.
    """
    counted = [error for source, error in errors.items() if not math.isnan(zero[source])]
    return math.fsum(counted) / len(counted) if counted else math.nan


def best_errors(table: ErrorTable) -> dict[str, float]:
    """Smallest error of any model by source and for the mean, at full precision."""
    rows = [_with_mean(errors, table.zero) for errors in table.errors.values()]
    return {
        column: min((row[column] for row in rows if not math.isnan(row[column])), default=math.nan)
        for column in rows[0]
    }


def error_rows(table: ErrorTable) -> list[CsvRow]:
    """A table of errors with machine names and all digits; nothing where nothing was tested."""
    named = {**table.errors, ZERO_NAME: table.zero}
    rows: list[CsvRow] = [
        (
            name,
            *(
                "" if math.isnan(value) else value
                for value in _with_mean(errors, table.zero).values()
            ),
        )
        for name, errors in named.items()
    ]
    return [("model", *table.zero, MEAN), *rows]


def error_grid(table: ErrorTable, *, models: Mapping[str, tuple[str, ...]], label: str) -> Grid:
    """A table of errors for people; ties for the best are all bold.

    Args:
        table: The errors.
        models: Sources that each model learns from.
        label: Name of the table.
    """
    sources = tuple(table.zero)
    titles = model_titles(models, sources=sources)
    best = best_errors(table)
    rows = [
        (
            Cell(titles[model]),
            *(
                Cell(format_number(value), bold=value == best[column])
                for column, value in _with_mean(errors, table.zero).items()
            ),
        )
        for model, errors in table.errors.items()
    ]
    zero = (Cell(format_number(value)) for value in _with_mean(table.zero, table.zero).values())
    quantity = table.quantity
    removed = ", after per-element reference energies are removed" * (quantity.target == "energy")
    untested = any(
        math.isnan(value) for errors in table.errors.values() for value in errors.values()
    )
    dash = f" –: {_why_untested(table)}." * untested
    return Grid(
        label=label,
        title=f"{quantity.title} ({quantity.unit})",
        caption=f"{quantity.long_title}{removed}, of each model (rows) on the "
        "test set of each source (columns). Mean: all test sets count the same. Bold: the best "
        f"model of a column. {ZERO_TITLE}: the error of predicting zero everywhere.{dash}",
        columns="l" + "r" * (len(sources) + 1),
        header=("Model", *(source_title(source) for source in sources), "Mean"),
        rows=(*rows, (Cell(ZERO_TITLE), *zero)),
        last_rows=1,
    )


def _why_untested(table: ErrorTable) -> str:
    """What a dash may mean in a table."""
    lacks_label = any(map(math.isnan, table.zero.values()))
    has_no_branch = any(
        math.isnan(error) and not math.isnan(table.zero[source])
        for errors in table.errors.values()
        for source, error in errors.items()
    )
    reasons = ["the model has no branch for that source"] if has_no_branch else []
    reasons += [f"that source has no {table.quantity.target}"] if lacks_label else []
    return ", or ".join(reasons)


def _with_mean(errors: Mapping[str, float], zero: Mapping[str, float]) -> dict[str, float]:
    return {**errors, MEAN: mean_error(errors, zero)}
