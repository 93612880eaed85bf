"""Table of every branch on every test set, those included that it did not learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from mtlpar.core.error_names import MAE_NAMES
from mtlpar.evaluate.metrics import read_metrics
from mtlpar.report.grid import Cell, CsvRow, Grid, format_number
from mtlpar.report.items import Scope
from mtlpar.report.names import model_titles, source_title

_NONE: Final = "–"
_ENERGY, _FORCES = MAE_NAMES["energy"], MAE_NAMES["forces"]


class _Tested(NamedTuple):
    """A branch on a test set.

    Attributes:
        model: Its model.
        branch: Its name.
        source: The test set.
        errors: Errors by key.
        has_learned: Whether its model learned the source.
        offsets: Structures of the test set that its references were fitted to.
        unknown: Elements of the test set that it never saw.
    """

    model: str
    branch: str
    source: str
    errors: dict[str, Any]
    has_learned: bool
    offsets: int = 0
    unknown: tuple[str, ...] = ()


def branch_rows(scope: Scope) -> list[CsvRow]:
    """Errors of branches on test sets, with machine names."""
    header = ("model", "branch", "source", _ENERGY, _FORCES, "offset_structures")
    rows = [
        (
            one.model,
            one.branch,
            one.source,
            one.errors.get(_ENERGY, ""),
            one.errors.get(_FORCES, ""),
            one.offsets,
            " ".join(one.unknown),
        )
        for one in _tested(scope)
    ]
    return [(*header, "unknown_elements"), *rows]


def branch_grid(scope: Scope) -> Grid:
    """Force errors of branches on test sets, for people; those on sources they learned are bold."""
    titles = model_titles(scope.models, sources=scope.sources)
    cells: dict[tuple[str, str], dict[str, Cell]] = {}
    for one in _tested(scope):
        text = format_number(one.errors.get(_FORCES, float("nan"))) + "*" * bool(one.unknown)
        row = cells.setdefault((one.model, one.branch), {})
        row[one.source] = Cell(text, bold=one.has_learned)
    return Grid(
        label="branches",
        title="Branches on all test sets (eV/Å)",
        caption="Mean absolute error of the force components of each branch (rows) on each test "
        "set (columns): bold on a source that the branch learned, plain on one that no branch of "
        "its model learned, where energies would need offsets. *: it never saw some of the "
        f"elements. {_NONE}: not tested; a source that has a branch is tested with that.",
        columns="ll" + "r" * len(scope.sources),
        header=("Model", "Branch", *(source_title(source) for source in scope.sources)),
        rows=tuple(
            (
                Cell(titles[model]),
                Cell(branch),
                *(row.get(source, Cell(_NONE)) for source in scope.sources),
            )
            for (model, branch), row in cells.items()
        ),
    )


def _tested(scope: Scope) -> Iterator[_Tested]:
    for model, trained_on in scope.models.items():
        for source in scope.sources:
            record = read_metrics(scope.workspace, model, source)
            has_learned = source in trained_on
            if record.branch is not None:
                yield _Tested(model, record.branch, source, record.given(), has_learned)
            for branch, errors in (record.zero_shot or {}).items():
                offsets, unknown = errors.offset_structures, errors.unknown_elements
                yield _Tested(model, branch, source, errors.given(), False, offsets, unknown)
