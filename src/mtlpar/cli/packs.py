"""Commands that look into a .bp folder, extracted or packed: inspect, export."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtlpar.cli.common import add_command, require_existing
from mtlpar.core.wording import counted

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands

logger = logging.getLogger(__name__)


def add_commands(commands: Commands) -> None:
    """Add inspect and export."""
    parser = add_command(commands, "inspect", _inspect, "describe a .bp folder and its contents")
    parser.add_argument("file", type=Path, metavar="FILE.bp")
    parser.add_argument(
        "--verify", action="store_true", help="read everything and compare all checksums"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the histograms")
    parser = add_command(
        commands, "export", _export, "write structures as extended XYZ or as an ASE database"
    )
    parser.add_argument("file", type=Path, metavar="FILE.bp")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write: .extxyz, .xyz or .db")
    parser.add_argument(
        "--start",
        type=int,
        default=0,
        metavar="I",
        help="index of the first structure (default: 0)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="maximum number of structures (default: all)"
    )


def _require_pack(path: Path) -> None:
    """Refuse what is no pack, and say which ones are there, or which command reads it."""
    if path.suffix == ".pt":
        raise ValueError(
            f"{path} is a model, not a pack; mtlpar info describes it, and mtlpar convert writes "
            "it for other engines"
        )
    require_existing([path])
    if not path.is_dir():
        raise ValueError(f"{path} is a file, not a .bp folder that mtlpar pack writes")
    inside = () if path.suffix == ".bp" else sorted(path.glob("*.bp"))
    if inside:
        names = ", ".join(map(str, inside))
        raise ValueError(f"{path} is a folder of packs; choose one: {names}")


def _inspect(options: argparse.Namespace) -> None:
    _require_pack(options.file)
    if options.plot and options.plot.suffix != ".png":
        # Not only after all of a pack has been read.
        raise ValueError(f"--plot {options.plot}: expected a name that ends in .png")
    from mtlpar.report.pack_text import pack_text
    from mtlpar.store.summary import summarize

    summary = summarize(options.file, everything=options.verify)
    sys.stdout.write(f"{pack_text(summary)}\n")
    if options.plot:
        from mtlpar.report.pack_figure import write_pack_figure

        write_pack_figure(summary, options.plot)


def _export(options: argparse.Namespace) -> None:
    _require_pack(options.file)
    from mtlpar.store.export import export

    count = export(options.file, options.out, start=options.start, limit=options.limit)
    logger.info("wrote %s to %s", counted(count, "structure"), options.out)
