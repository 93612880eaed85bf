"""The command: ``python -m tools.sample --out FOLDER``, at the root of the repository."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from .base import SOURCES
from .generate import generate


def main() -> None:
    """Compute a sample of the sources in their native formats."""
    parser = argparse.ArgumentParser(prog="python -m tools.sample", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--structures", type=int, default=1200, metavar="N", help="structures per source, roughly"
    )
    parser.add_argument("--seed", type=int, default=20250626, help="seed of everything random")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    parser.add_argument("--source", action="append", choices=SOURCES, help="only this source")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    generate(
        options.out,
        structures_per_source=options.structures,
        seed=options.seed,
        processes=options.jobs,
        sources=options.source,
    )


if __name__ == "__main__":
    main()
