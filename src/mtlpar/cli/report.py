"""Commands that write for readers: report, provenance, schema."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtlpar.cli.common import (
    add_command,
    add_config,
    read_config,
    read_config_or_defaults,
    run_stage,
)
from mtlpar.core.files import write_text

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands
    from mtlpar.config import Config
    from mtlpar.flow.as_written import WrittenFiles
    from mtlpar.report.items import Scope


def add_commands(commands: Commands) -> None:
    """Add report, provenance and schema."""
    parser = add_command(commands, "report", _report, "draw tables and figures from the metrics")
    add_config(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--item", metavar="NAME", help="make only this table or figure (default: all)"
    )
    what.add_argument(
        "--summary", action="store_true", help="print the main tables and the paths of the results"
    )
    what.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="bundle the finished tables and figures into one HTML page",
    )
    parser = add_command(
        commands, "provenance", _provenance, "print where a file came from, down to the raw data"
    )
    add_config(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="any output of the workflow")
    parser = add_command(commands, "schema", _schema, "print the JSON schema of the config")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead")


def _report(options: argparse.Namespace) -> None:
    from mtlpar.flow.as_written import WrittenFiles
    from mtlpar.flow.table import report_scope
    from mtlpar.report import stage

    config = read_config(options)
    scope = report_scope(config)
    written = WrittenFiles(config, config.workspace.results / "provenance")
    items = stage.chosen_items(options.item, with_stress=config.predicts_stress)
    if options.summary:
        for item in items:
            written.check_inputs(item)
        report = Path("report.html")
        text = stage.summary_text(scope, report=report if report.exists() else None)
        sys.stdout.write(f"{text}\n")
    elif options.html:
        from mtlpar.flow.project import project_files

        for item in items:
            written.check_inputs(item)
            written.check_outputs(item)
        stage.write_html(
            options.html,
            scope,
            captions=project_files() / "workflow" / "report",
            with_stress=config.predicts_stress,
        )
    elif options.item:
        _make(options.item, config, written, scope)
    else:
        _make_all(items, config, written, scope)


def _make(item: str, config: Config, written: WrittenFiles, scope: Scope) -> None:
    from mtlpar.report import stage

    written.check_inputs(item)
    run_stage(config, "report", item, stage.run, scope=scope)


def _make_all(items: Sequence[str], config: Config, written: WrittenFiles, scope: Scope) -> None:
    """Make what can be made; what a stage that did not run leaves out is told at the end."""
    problems: dict[str, list[str]] = {}
    for item in items:
        try:
            _make(item, config, written, scope)
        except ValueError as error:
            problems.setdefault(str(error), []).append(item)
    if problems:
        lines = (f"{', '.join(left_out)}: {problem}" for problem, left_out in problems.items())
        raise ValueError(
            f"{sum(map(len, problems.values()))} of {len(items)} tables and figures are not made:"
            "\n  " + "\n  ".join(lines)
        )


def _provenance(options: argparse.Namespace) -> None:
    from mtlpar.flow.lineage import describe

    config = read_config_or_defaults(options)
    sys.stdout.write(f"{describe(options.file, config.workspace.results)}\n")


def _schema(options: argparse.Namespace) -> None:
    from mtlpar.config import json_schema

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if options.out:
        write_text(options.out, text)
    else:
        sys.stdout.write(text)
