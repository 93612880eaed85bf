"""Commands on model files: info, check."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtlpar.cli.common import add_command, add_config, read_config, read_config_or_defaults

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands

logger = logging.getLogger(__name__)


def add_commands(commands: Commands) -> None:
    """Add the commands that look at models."""
    _add_info(commands)
    _add_check(commands)
    _add_card(commands)


def _add_info(commands: Commands) -> None:
    parser = add_command(
        commands,
        "info",
        _info,
        "describe a model file, or all models of the config",
    )
    parser.add_argument(
        "path", type=Path, nargs="?", metavar="MODEL", help="model.pt or its folder"
    )
    add_config(parser)


def _add_check(commands: Commands) -> None:
    parser = add_command(
        commands,
        "check",
        _check,
        "test that a trained model obeys physics; exit status 1 if it does not",
    )
    parser.add_argument("path", type=Path, metavar="MODEL", help="model.pt or its folder")
    parser.add_argument(
        "--source", metavar="NAME", help="check only the branch of this source (default: all)"
    )


def _add_card(commands: Commands) -> None:
    parser = add_command(
        commands,
        "card",
        _card,
        "write a model card in Markdown: what others should know about a model",
    )
    parser.add_argument("path", type=Path, metavar="MODEL", help="model.pt or its folder")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (default: card.md beside the model)"
    )
    add_config(parser)


def model_file(path: Path) -> Path:
    """The model that a path means: the file itself, or the one in that folder.

    Raises:
        ValueError: If there is none, with the command for what is there instead.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; expected a model.pt or its folder")
    if not path.is_dir():
        return path
    if path.suffix == ".bp" or next(path.glob("*.bp"), None):
        raise ValueError(f"{path} holds data, not a model; mtlpar inspect describes it")
    if not (path / "model.pt").is_file():
        raise ValueError(f"{path} holds no model.pt")
    return path / "model.pt"


def _info(options: argparse.Namespace) -> None:
    if options.path is not None:
        path = model_file(options.path)
        from mtlpar.model.describe import describe_model
        from mtlpar.model.file import load_model

        sys.stdout.write(f"{describe_model(load_model(path))}\n")
        return
    config = read_config(options)
    from mtlpar.model.describe import describe_settings

    for name, entry in config.models.items():
        text = describe_settings(config.model_of(name), entry.branches)
        sys.stdout.write(f"model {name}\n{text}\n\n")


def _card(options: argparse.Namespace) -> None:
    path = model_file(options.path)
    config = read_config_or_defaults(options)
    from mtlpar.core.files import file_digest, write_text
    from mtlpar.flow.as_written import WrittenFiles
    from mtlpar.model.file import load_model
    from mtlpar.report.card import card, name_of

    model = load_model(path)
    work, name = config.workspace, name_of(model, path)
    is_tested = WrittenFiles(config, work.results / "provenance").tested(name) in (
        None,
        file_digest(path),
    )
    if not is_tested:
        logger.warning(
            "the test errors in %s are of another model file than %s, and left out; mtlpar "
            "evaluate writes them again",
            work.metrics(name, model.sources[0]).parent,
            path,
        )
    text = card(
        model, path, workspace=work if is_tested else None, catalogue=config.paths.catalogue
    )
    out = options.out or path.with_name("card.md")
    write_text(out, text)
    sys.stdout.write(f"wrote {out}\n")


def _check(options: argparse.Namespace) -> None:
    path = model_file(options.path)
    from mtlpar.check import suite
    from mtlpar.model.file import load_model

    model = load_model(path)
    refused, checked = [], []
    for branch, findings in suite.check_model(model, source=options.source):
        sys.stdout.write(f"branch {branch}\n{suite.table(findings)}\n\n")
        checked.append(findings)
        refused += [f"{branch}: {check}" for check in suite.refusals(findings)]
    sys.stdout.write(f"{suite.LEGEND}{suite.truncation_note(model.settings.graph)}\n")
    if refused:
        raise ValueError(f"{options.path} is refused: {'; '.join(refused)}")
    part = "" if options.source is None else f", branch {model.branch_of(options.source)}"
    sys.stdout.write(f"{options.path}{part} {suite.verdict(checked)}\n")
