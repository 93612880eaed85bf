"""Runs the report stage for one table or figure, and binds them into a page."""

from __future__ import annotations

import logging
from pathlib import Path

from mtlpar.report.items import Scope, get_item, items_of, outputs_of
from mtlpar.report.page import write_page
from mtlpar.report.tables import summary_text, write_table

__all__ = ["chosen_items", "run", "summary_text", "write_html"]

logger = logging.getLogger(__name__)


def chosen_items(item: str | None, *, with_stress: bool) -> tuple[str, ...]:
    """Names of the tables and figures to make: the one that was asked for, or all of a run.

    Args:
        item: What was asked for.
        with_stress: Whether the models predict stresses.

    Raises:
        ValueError: If there is no such item.
    """
    if item is not None:
        return (get_item(item).name,)
    return tuple(one.name for one in items_of(with_stress=with_stress))


def run(item: str, *, scope: Scope) -> None:
    """Make a table or figure.

    Args:
        item: Name of the table or figure.
        scope: What the report is about.

    Raises:
        ValueError: If there is no such item, or if one of its inputs is missing, not finite or
            does not belong to it.
    """
    chosen = get_item(item)
    if chosen.kind == "table":
        write_table(chosen, scope)
    else:
        # Importing matplotlib takes as long as writing all tables.
        from mtlpar.report.figures import write_figure

        write_figure(chosen, scope)
    logger.info("%s: %s", item, ", ".join(map(str, outputs_of(item, scope.workspace))))


def write_html(path: Path, scope: Scope, *, captions: Path, with_stress: bool) -> None:
    """Write all tables and figures of a run as one HTML page.

    Args:
        path: The page.
        scope: What the report is about.
        captions: Folder with the captions.
        with_stress: Whether the models predict stresses.

    Raises:
        ValueError: If a figure has not been drawn, or an input is missing or not usable.
    """
    write_page(path, items_of(with_stress=with_stress), scope, captions=captions)
    logger.info("%s", path)
