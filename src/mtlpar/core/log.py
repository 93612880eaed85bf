"""Log lines that say when, who and what."""

from __future__ import annotations

import logging
import sys


def set_up_logging(
    *, rank: int = 0, world_size: int = 1, verbose: bool = False, others: int = logging.WARNING
) -> None:
    """Send the package's log to stderr; only rank 0 says all of it.

    Args:
        rank: This process's rank.
        world_size: Number of ranks; the rank is printed where there are several.
        verbose: Show debug messages too.
        others: Level from which on other ranks than the first speak.
    """
    level = logging.DEBUG if verbose else logging.INFO
    who = f" rank {rank}/{world_size}" if world_size > 1 else ""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s{who} %(levelname).1s %(message)s", datefmt="%H:%M:%S")
    )
    logger = logging.getLogger("mtlpar")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level if rank == 0 else others)
