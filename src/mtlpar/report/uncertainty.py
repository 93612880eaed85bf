"""Table of how good uncertainties of energies are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from mtlpar.core.products import MetricsRecord, UncertaintyQuality
from mtlpar.evaluate.metrics import read_metrics
from mtlpar.report.grid import CsvRow, Grid, format_number, text_row
from mtlpar.report.items import Scope
from mtlpar.report.names import model_titles, source_title

_COLUMNS: Final = (
    "num_structures",
    "mean_ev_per_atom",
    "coverage_90",
    "rank_correlation",
    "auroc_group_never_seen",
    "num_pair_never_seen",
    "auroc_pair_never_seen",
)
# Little better than chance, as far as test sets of a hundred structures tell.
_HARDLY: Final = 0.6
_NONE: Final = "–"


def uncertainty_rows(scope: Scope) -> list[CsvRow]:
    """How good uncertainties are, by model and source, with machine names."""
    rows = [
        (model, source, record.level_of_theory, *(_plain(found, name) for name in _COLUMNS))
        for model, source, record, found in read_uncertainties(scope, scope.models)
    ]
    return [("model", "source", "level_of_theory", *_COLUMNS), *rows]


def uncertainty_grid(scope: Scope) -> Grid:
    """How good uncertainties are, for people."""
    titles = model_titles(scope.models, sources=scope.sources)
    found = [*read_uncertainties(scope, scope.models)]
    rows = tuple(
        text_row(
            titles[model],
            source_title(source),
            record.level_of_theory,
            *(_text(_plain(quality, name)) for name in _COLUMNS),
        )
        for model, source, record, quality in found
    )
    nothing = text_row("No model of this run knows any", *[_NONE] * (len(_COLUMNS) + 2))
    return Grid(
        label="uncertainty",
        title="Uncertainty of energies",
        caption="Standard deviations of energies that models state, on test structures: their mean "
        "(eV/atom), the share of errors within the interval that is to hold 90 % of them, the rank "
        "correlation with the size of the error, and how well they tell apart test structures from "
        "training structures (group) and, among test structures, those with two elements that no "
        "training structure has together (pair; how many before it): the area under the receiver "
        f"operating characteristic, 0.5 is chance. {_hardly(found)}",
        columns="lllrrrrrrr",
        header=(
            "Model", "Source", "Level of theory", "Structures", "Mean", "Coverage", "Rank corr.",
            "Group AUROC", "Pairs", "Pair AUROC",
        ),
        rows=rows or (nothing,),
    )  # fmt: skip


def _hardly(found: Sequence[tuple[str, str, MetricsRecord, UncertaintyQuality]]) -> str:
    """Say where uncertainties do not tell anything apart."""
    areas = [
        area
        for *_, quality in found
        for area in (quality.auroc_group_never_seen, quality.auroc_pair_never_seen)
        if area is not None
    ]
    poor = sum(area < _HARDLY for area in areas)
    if not poor:
        return ""
    return (
        f"In {poor} of {len(areas)} cases the area is below {_HARDLY}: there the uncertainty "
        "hardly tells what is new from what is not, and must not be used for that."
    )


def read_uncertainties(
    scope: Scope, models: Iterable[str]
) -> Iterator[tuple[str, str, MetricsRecord, UncertaintyQuality]]:
    """Model, source, metrics and what these say of uncertainties, where they say anything."""
    for model in models:
        for source in scope.sources:
            record = read_metrics(scope.workspace, model, source)
            if record.uncertainty is not None:
                yield model, source, record, record.uncertainty


def _plain(found: UncertaintyQuality, name: str) -> int | float | str:
    value: int | float | None = getattr(found, name)
    return "" if value is None else value


def _text(value: int | float | str) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return format_number(value) if isinstance(value, float) else _NONE
