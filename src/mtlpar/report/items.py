"""The tables and figures: what each of them is called, reads and writes.

A new one is a row in ``_ALL``, a function that makes it, and a caption in ``workflow/report``
under the same name. The module imports nothing heavy, for it is used while a DAG is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from mtlpar.core.error_names import MAE_NAMES
from mtlpar.core.paths import Workspace
from mtlpar.core.units import EV_PER_CUBIC_ANGSTROM_GPA
from mtlpar.report.settings import ReportSettings

TABLE_FORMATS: Final = ("csv", "md", "tex")
FIGURE_FORMATS: Final = ("png", "svg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a report is about.

    Attributes:
        workspace: Paths of all products.
        settings: Looks, and the models of the parity plots.
        models: Sources that each model learns from, in the order of the rows.
        sources: Test sets, in the order of the columns.
    """

    workspace: Workspace
    settings: ReportSettings
    models: Mapping[str, tuple[str, ...]]
    sources: Sequence[str]

    @property
    def parity_models(self) -> tuple[str, ...]:
        """Models of the parity plots: the chosen ones, or all that learn from several sources.

        Raises:
            ValueError: If a chosen model does not exist.
        """
        chosen = self.settings.parity_models
        if chosen is None:
            several = tuple(model for model, trained_on in self.models.items() if trained_on[1:])
            return several or tuple(self.models)
        if unknown := [model for model in chosen if model not in self.models]:
            raise ValueError(
                f"report.parity_models: no model is called {', '.join(map(repr, unknown))}; "
                f"there are {', '.join(self.models)}"
            )
        return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A test error.

    Attributes:
        key: Its key in the metrics files.
        target: What is predicted: ``energy``, ``force`` or ``stress``.
        factor: What its values in the metrics files are multiplied by, for the unit.
        title: Short name, as in the head of a table.
        long_title: Name for captions.
        unit: Unit, in plain text.
    """

    key: str
    target: Literal["energy", "force", "stress"]
    title: str
    long_title: str
    unit: str
    factor: float = 1.0

    @property
    def label(self) -> str:
        """Name of the label that is predicted."""
        return "forces" if self.target == "force" else self.target


ENERGY_MAE: Final = Quantity(
    key=MAE_NAMES["energy"],
    target="energy",
    title="Energy MAE",
    long_title="Mean absolute error of the energy per atom",
    unit="eV/atom",
)
FORCE_MAE: Final = Quantity(
    key=MAE_NAMES["forces"],
    target="force",
    title="Force MAE",
    long_title="Mean absolute error of the force components",
    unit="eV/Å",
)
ENERGY_RMSE: Final = Quantity(
    key="energy_rmse_ev_per_atom",
    target="energy",
    title="Energy RMSE",
    long_title="Root-mean-square error of the energy per atom",
    unit="eV/atom",
)
FORCE_RMSE: Final = Quantity(
    key="force_rmse_ev_per_angstrom",
    target="force",
    title="Force RMSE",
    long_title="Root-mean-square error of the force components",
    unit="eV/Å",
)


STRESS_MAE: Final = Quantity(
    key=MAE_NAMES["stress"],
    target="stress",
    title="Stress MAE",
    long_title="Mean absolute error of the stress components",
    unit="eV/Å^3",
)
STRESS_MAE_GPA: Final = replace(STRESS_MAE, unit="GPa", factor=EV_PER_CUBIC_ANGSTROM_GPA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One table or figure.

    Attributes:
        name: Its name, which is also the stem of its files and of its caption.
        kind: Table or figure.
        title: What the HTML report calls it.
        reads: Files it is made of.
        quantity: The error that a table shows, if it shows one.
        is_of_stress: Whether it is about stresses, which only conservative models predict.
        is_of_data: Whether it is about the data alone, no model takes part.
    """

    name: str
    kind: Literal["table", "figure"]
    title: str
    reads: Callable[[Scope], list[Path]]
    quantity: Quantity | None = None
    is_of_stress: bool = False
    is_of_data: bool = False

    @property
    def category(self) -> str:
        """Part of a report that it appears in."""
        return "Data" if self.is_of_data else "Results"


def _metrics(scope: Scope) -> list[Path]:
    pairs = [(model, test) for model in scope.models for test in scope.sources]
    return [*(scope.workspace.metrics(model, test) for model, test in pairs), *_ledgers(scope)]


def _predictions(scope: Scope) -> list[Path]:
    pairs = [(model, test) for model in scope.parity_models for test in scope.sources]
    return [
        *(scope.workspace.metrics(model, test) for model, test in pairs),
        *_ledgers(scope),
        *(scope.workspace.predictions(model, test) for model, test in pairs),
    ]


def _histories(scope: Scope) -> list[Path]:
    histories = (scope.workspace.training_metrics(model) for model in scope.models)
    return [*_ledgers(scope), *histories]


def _ledgers(scope: Scope) -> list[Path]:
    """Everything reads the ledgers: they say whether splits are leaky."""
    return [scope.workspace.ledger(source) for source in scope.sources]


def _checks(scope: Scope) -> list[Path]:
    return [*_ledgers(scope), *(scope.workspace.checks(source) for source in scope.sources)]


def _leaks(scope: Scope) -> list[Path]:
    return [*_checks(scope), scope.workspace.leaks]


def _references(scope: Scope) -> list[Path]:
    return [*_ledgers(scope), *(scope.workspace.references(source) for source in scope.sources)]


_ALL: Final = (
    Item(
        name="table1",
        kind="table",
        title="Table 1: energy MAE",
        reads=_metrics,
        quantity=ENERGY_MAE,
    ),
    Item(
        name="table2", kind="table", title="Table 2: force MAE", reads=_metrics, quantity=FORCE_MAE
    ),
    Item(
        name="table3",
        kind="table",
        title="Table 3: energy RMSE",
        reads=_metrics,
        quantity=ENERGY_RMSE,
    ),
    Item(
        name="table4",
        kind="table",
        title="Table 4: force RMSE",
        reads=_metrics,
        quantity=FORCE_RMSE,
    ),
    Item(
        name="table5",
        kind="table",
        title="Table 5: stress MAE",
        reads=_metrics,
        quantity=STRESS_MAE,
        is_of_stress=True,
    ),
    Item(
        name="table6",
        kind="table",
        title="Table 6: stress MAE in GPa",
        reads=_metrics,
        quantity=STRESS_MAE_GPA,
        is_of_stress=True,
    ),
    Item(name="branches", kind="table", title="Branches on all test sets", reads=_metrics),
    Item(name="uncertainty", kind="table", title="Uncertainty of energies", reads=_metrics),
    Item(name="ledger", kind="table", title="Ledger of all rows", reads=_ledgers, is_of_data=True),
    Item(
        name="ledger_files",
        kind="table",
        title="Ledger of the raw files",
        reads=_ledgers,
        is_of_data=True,
    ),
    Item(name="checks", kind="table", title="Physics checks", reads=_checks, is_of_data=True),
    Item(name="leaks", kind="table", title="Leaks between splits", reads=_leaks, is_of_data=True),
    Item(
        name="references",
        kind="table",
        title="Reference energies",
        reads=_references,
        is_of_data=True,
    ),
    Item(name="heatmap_energy", kind="figure", title="Energy MAE at a glance", reads=_metrics),
    Item(name="heatmap_force", kind="figure", title="Force MAE at a glance", reads=_metrics),
    Item(
        name="parity_energy",
        kind="figure",
        title="Energies, predicted and labelled",
        reads=_predictions,
    ),
    Item(
        name="parity_force",
        kind="figure",
        title="Forces, predicted and labelled",
        reads=_predictions,
    ),
    Item(
        name="parity_stress",
        kind="figure",
        title="Stresses, predicted and labelled",
        reads=_predictions,
        is_of_stress=True,
    ),
    Item(name="calibration", kind="figure", title="Calibration of uncertainties", reads=_metrics),
    Item(name="learning_curves", kind="figure", title="Learning curves", reads=_histories),
    Item(
        name="ledger_figure",
        kind="figure",
        title="Shares of the rows",
        reads=_ledgers,
        is_of_data=True,
    ),
    Item(
        name="reference_energies",
        kind="figure",
        title="Reference energies and what they leave",
        reads=_references,
        is_of_data=True,
    ),
)

ITEMS: Final[dict[str, Item]] = {item.name: item for item in _ALL}
"""Every table and figure by name, in the order of the report."""


def items_of(*, with_stress: bool) -> tuple[Item, ...]:
    """Tables and figures of a run.

    Args:
        with_stress: Whether its models predict stresses.
    """
    return tuple(item for item in _ALL if with_stress or not item.is_of_stress)


def table_names(*, with_stress: bool = True) -> tuple[str, ...]:
    """Names of the tables of a run, see `items_of`."""
    return tuple(one.name for one in items_of(with_stress=with_stress) if one.kind == "table")


def figure_names(*, with_stress: bool = True) -> tuple[str, ...]:
    """Names of the figures of a run, see `items_of`."""
    return tuple(one.name for one in items_of(with_stress=with_stress) if one.kind == "figure")


def get_item(name: str) -> Item:
    """Return a table or figure by name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in ITEMS:
        raise ValueError(f"no table or figure is called {name!r}; there are {', '.join(ITEMS)}")
    return ITEMS[name]


def inputs_of(item: str, scope: Scope) -> list[Path]:
    """Files that a table or figure is made of.

    Raises:
        ValueError: If there is no such table or figure, or a parity model does not exist.
    """
    return get_item(item).reads(scope)


def outputs_of(item: str, workspace: Workspace) -> list[Path]:
    """Files that a table or figure is written to.

    Raises:
        ValueError: If there is no such table or figure.
    """
    if get_item(item).kind == "table":
        return [workspace.tables / f"{item}.{suffix}" for suffix in TABLE_FORMATS]
    return [workspace.figures / f"{item}.{suffix}" for suffix in FIGURE_FORMATS]
