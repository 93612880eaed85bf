"""Ranks whose sums do not belong together all end within seconds, and say so.

One rank skips a step, takes one twice, adds up something else in between or holds another model;
none of that can happen by configuration, which ranks compare, but a fault in the code or another
version of it on one node can do it. Both collectives of a step that is a step late have the right
length: nothing but the number of the step tells. The collective timeout is five minutes.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from training import command_line
from warm import warm_python

from mtlpar.core.paths import Workspace

SCRIPT = str(Path(__file__).parents[1] / "mismatched_ranks.py")


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("skips a step", r"rank [012] is at step [67], others are not"),
        pytest.param(
            "doubles a step",
            r"rank [012] is at step [67], others are not",
            marks=pytest.mark.slow,
        ),
        (
            "holds more",
            r"rank 1 has tensors of the encoder: '3,903 numbers in 34, .*', rank 0 has",
        ),
        # Gloo ends the process that receives too much, with sizes for a message.
        (
            "sums something else",
            r"rank [012] .*died|could not be summed|size doesn't match expected",
        ),
    ],
)
def test_all_ranks_end_within_seconds(
    fault: str, told: str, five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    endless = {"epochs": 10_000, "patience_epochs": 10_000}
    line = command_line(copy_of(five_sources), 3, python=warm_python(), **endless)
    module = line.index("mtlpar", line.index("--"))
    line[module - 1 : module + 1] = [SCRIPT, "1", fault]
    started = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode not in (0, 75)
    assert re.search(told, done.stderr), done.stderr
    assert time.monotonic() - started < 90
