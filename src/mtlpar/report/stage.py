"""Runs the report stage for one table or figure, or for all of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from mtlpar.core.paths import Workspace
from mtlpar.report.items import ITEMS, Scope, get_item, outputs_of
from mtlpar.report.settings import ReportSettings
from mtlpar.report.tables import summary_text, write_table

__all__ = ["chosen_items", "run", "summary_text"]

logger = logging.getLogger(__name__)


def chosen_items(item: str | None) -> tuple[str, ...]:
    """Names of the tables and figures to make: the one that was asked for, or all.

    Raises:
        ValueError: If there is no such item.
    """
    return tuple(ITEMS) if item is None else (get_item(item).name,)


def run(
    item: str | None,
    *,
    workspace: Workspace,
    settings: ReportSettings,
    models: Mapping[str, tuple[str, ...]],
    sources: Sequence[str],
) -> None:
    """Make a table or figure, or all of them.

    Args:
        item: Name of the table or figure; None for all.
        workspace: Paths of all products.
        settings: Settings of the stage.
        models: Sources that each model learns from, in the order of the rows.
        sources: Test sets, in the order of the columns.

    Raises:
        ValueError: If there is no such item, or if one of its inputs is missing, not finite or
            does not belong to it.
    """
    scope = Scope(workspace=workspace, settings=settings, models=models, sources=sources)
    for name in ITEMS if item is None else (item,):
        chosen = get_item(name)
        if chosen.kind == "table":
            write_table(chosen, scope)
        else:
            # Importing matplotlib takes as long as writing all tables.
            from mtlpar.report.figures import write_figure

            write_figure(chosen, scope)
        logger.info("%s: %s", name, ", ".join(map(str, outputs_of(name, workspace))))
