"""Whatever leads to a collective on ranks that run is marked as `@collective`."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from training import command_line
from warm import warm_python

from mtlpar.core.paths import Workspace

SCRIPT = str(Path(__file__).parents[1] / "marked_ranks.py")


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "changes", "fewest"),
    [
        # Shards of the encoder, and passes that some ranks have fewer of than others.
        (4, {"encoder_shards": 2, "max_atoms_per_pass": 30}, 40),
        # Groups of a branch, and the cosines of gradients.
        pytest.param(3, {"cosine_steps": 2, "layout": "mtl-base"}, 40, marks=pytest.mark.slow),
    ],
)
def test_all_callers_of_a_training_are_marked(
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    ranks: int,
    changes: dict[str, object],
    fewest: int,
) -> None:
    # The source alone does not tell of which class an object is whose method is called.
    line = command_line(copy_of(five_sources), ranks, python=warm_python(), epochs=1, **changes)
    module = line.index("mtlpar", line.index("--"))
    line[module - 1 : module + 1] = [SCRIPT]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    counts = [int(n) for n in re.findall(r"(\d+) marked functions led", done.stderr)]
    assert len(counts) == ranks
    assert min(counts) >= fewest
