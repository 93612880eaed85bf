"""Measures in fresh processes, which may take turns; what one keeps does not help the next."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable


def read_options(description: str | None, *, measured: int) -> argparse.Namespace:
    """Rounds, repeats, and in a process that measures what it is to measure.

    Args:
        description: Text of the script.
        measured: How many words say what to measure.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="steps of each process")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    parser.add_argument("--measure", nargs=measured, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_apart(script: str, *what: str, rounds: int) -> list[float]:
    """The numbers that a fresh process of the script prints."""
    command = [sys.executable, script, "--measure", *what, "--rounds", str(rounds)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(word) for word in printed.split()]


def best_seconds(work: Callable[[], object], rounds: int) -> float:
    """CPU seconds of the best of some rounds."""
    seconds = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return min(seconds)
