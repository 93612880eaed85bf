"""Tables of data quality: physics checks, leaks between splits, and reference energies."""

from __future__ import annotations

from typing import Any, Final

from mtlpar.core.products import ChecksRecord, LeakPair, LeaksRecord, ReferencesRecord
from mtlpar.core.records import read_record
from mtlpar.report.grid import Cell, CsvRow, Grid, format_number, text_row
from mtlpar.report.items import Scope
from mtlpar.report.names import source_title

_NOT_APPLICABLE: Final = "n/a"
_NONE: Final = "–"
_CHECKS: Final = (
    ("structures", "Structures"),
    ("close_atoms", "Close atoms"),
    ("net_force", "Net force"),
    ("energy_outliers", "Energy outliers"),
    ("largest_force_ev_per_angstrom", "Largest force (eV/Å)"),
    ("energy_work_pairs", "Steps"),
    ("energy_work_slope", "dE / work"),
    ("stress_work_slope", "dE / strain work"),
)


def check_rows(scope: Scope) -> list[CsvRow]:
    """What the physics checks counted, by source, with machine names."""
    rows = [
        (source, *("" if value is None else value for value in _check_values(scope, source)))
        for source in scope.sources
    ]
    return [("source", *(key for key, _ in _CHECKS)), *rows]


def check_grid(scope: Scope) -> Grid:
    """What the physics checks counted, for people."""
    return Grid(
        label="checks",
        title="Physics checks",
        caption="Structures that the physics checks point at; they are kept. Close atoms: two "
        "atoms or images closer than the limit. Net force: forces that do not add up to zero. "
        "Energy outliers: energies per atom far from the median of train. dE / work: median of "
        "energy differences over the work of the forces between neighbouring frames, 1 where "
        "units and signs agree. dE / strain work: the same of the stress where the cell changes. "
        f"{_NOT_APPLICABLE}: rows are no trajectory.",
        columns="l" + "r" * len(_CHECKS),
        header=("Source", *(title for _, title in _CHECKS)),
        rows=tuple(
            (Cell(source_title(source)), *(Cell(_text(v)) for v in _check_values(scope, source)))
            for source in scope.sources
        ),
    )


def _leaking_pairs(scope: Scope) -> list[LeakPair]:
    """Comparisons of all test with all train splits of the sources in question.

    Raises:
        ValueError: If a source was not among them.
    """
    content = read_record(scope.workspace.leaks, LeaksRecord, stage="leaks")
    if missing := [source for source in scope.sources if source not in content.sources]:
        raise ValueError(
            f"{scope.workspace.leaks} compares {', '.join(content.sources)}, but not "
            f"{', '.join(missing)}; run mtlpar leaks again"
        )
    return [pair for pair in content.pairs if {pair.test, pair.train} <= {*scope.sources}]


def leak_rows(scope: Scope) -> list[CsvRow]:
    """What each test split shares with each train split, with machine names."""
    keys = (
        "test", "train", "test_structures", "same_geometry", "equivalent_geometry",
        "same_composition",
    )  # fmt: skip
    pairs = _leaking_pairs(scope)
    rows = [tuple(getattr(pair, key) for key in keys) for pair in pairs]
    most = [" ".join(entry.formula for entry in pair.most_frequent) for pair in pairs]
    return [
        (*keys, "most_frequent_compositions"),
        *((*row, formulas) for row, formulas in zip(rows, most, strict=True)),
    ]


def leak_grid(scope: Scope) -> Grid:
    """What each test split shares with any train split, for people."""
    pairs = _leaking_pairs(scope)
    rows = []
    for source in scope.sources:
        within = _checks_of(scope, source)
        own = [p for p in pairs if p.test == source and p.train == source]
        other = [p for p in pairs if p.test == source and p.train != source]
        size = max((p.test_structures for p in own), default=0)
        numbers = (
            within.in_several_splits.groups,
            within.in_several_splits.structures,
            within.in_several_splits.geometries,
            size,
            sum(p.same_composition for p in own),
        )
        most = (
            f"{max(counts):,}" if counts else _NONE
            for counts in (
                [p.same_geometry for p in other],
                [p.equivalent_geometry for p in other],
                [p.same_composition for p in other],
            )
        )
        counted_here = (f"{number:,}" for number in numbers)
        rows.append(text_row(source_title(source), within.split_by, *counted_here, *most))
    return Grid(
        label="leaks",
        title="Leaks between splits",
        caption="Groups, structures, and geometries however they are moved, rotated, ordered or "
        "wrapped, that lie in more than one split (must be 0, except for groups where single "
        "frames are split), and structures of each test split whose formula, or whose geometry at "
        "another level of theory, is in a train split: of the same source, and of that other "
        "source which shares most. Same: to the last bit. Equivalent: written differently."
        + (f" {_NONE}: there is no other source." if len(scope.sources) == 1 else ""),
        columns="llrrrrrrrr",
        header=(
            "Source",
            "Split by",
            "Groups leaked",
            "Structures leaked",
            "Geometries leaked",
            "Test",
            "Formula in own train",
            "Same in other train",
            "Equivalent in other train",
            "Formula in other train",
        ),
        rows=tuple(rows),
    )


def reference_rows(scope: Scope) -> list[CsvRow]:
    """Reference energies of all sources with machine names and all digits."""
    rows: list[CsvRow] = []
    for source in scope.sources:
        content = references_of(scope, source)
        for symbol, energy in content.energies_ev.items():
            error = content.standard_errors_ev.get(symbol)
            is_open = symbol in content.undetermined
            rows.append((source, symbol, energy, "" if error is None else error, int(is_open)))
    return [("source", "element", "energy_ev", "standard_error_ev", "undetermined"), *rows]


def reference_grid(scope: Scope) -> Grid:
    """How well the references of each source are known, for people."""
    rows = []
    for source in scope.sources:
        content = references_of(scope, source)
        errors = [e for e in content.standard_errors_ev.values() if e is not None]
        residuals, statistics = content.residuals, content.train_statistics
        texts = (
            source_title(source),
            content.fitted_on or content.taken_from,
            f"{content.num_structures:,}",
            str(content.num_elements),
            _text(content.rank),
            _text(max(errors, default=None)),
            _text(statistics.energy_rms_ev_per_atom),
            _text(residuals.robust_deviation_ev_per_atom),
            ", ".join(content.undetermined) or "none",
        )
        rows.append(text_row(*texts))
    return Grid(
        label="references",
        title="Reference energies",
        caption="Per-element reference energies of each source: structures and elements of the "
        "fit, rank of the composition matrix, largest standard error (eV), and what is left of "
        "the energies of train (eV/atom): root mean square and robust standard deviation. "
        "Undetermined: elements whose numbers are bound to those of others, by fixed ratios or "
        "charge balance; their energies are of minimum norm. The CSV file has every energy.",
        columns="llrrrrrrp",
        header=(
            "Source", "From", "Structures", "Elements", "Rank", "Largest error", "RMS",
            "Robust", "Undetermined",
        ),
        rows=tuple(rows),
    )  # fmt: skip


def references_of(scope: Scope, source: str) -> ReferencesRecord:
    """Reference energies of a source, as the normalize stage wrote them.

    Raises:
        ValueError: If they are missing, damaged, or those of another source.
    """
    path = scope.workspace.references(source)
    return read_record(path, ReferencesRecord, stage="normalize", expected={"source": source})


def _checks_of(scope: Scope, source: str) -> ChecksRecord:
    path = scope.workspace.checks(source)
    return read_record(path, ChecksRecord, stage="normalize", expected={"source": source})


def _check_values(scope: Scope, source: str) -> tuple[int | float | None, ...]:
    content = _checks_of(scope, source)
    work = content.ingest.energy_work
    values: dict[str, Any] = {
        **content.ingest.given(),
        "energy_outliers": content.energy_outliers.count,
        "energy_work_pairs": work.pairs,
        "energy_work_slope": work.slope,
        "stress_work_slope": work.stress.slope,
    }
    return tuple(values[key] for key, _ in _CHECKS)


def _text(value: float | None) -> str:
    if value is None:
        return _NOT_APPLICABLE
    return f"{value:,}" if isinstance(value, int) else format_number(value)
