"""Every rank reads every structure, wherever it lies, and needs nobody's help for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from helpers import REPOSITORY
from warm import warm_python

from mtlpar.core.paths import Workspace
from mtlpar.parallel.launch import Geometry, launch_command


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "source"),
    [
        (2, "ani1x"),
        # Fewer structures than some have ranks: slices are uneven and some may be empty.
        (5, "alexandria"),
        (3, "mptrj"),
    ],
)
def test_all_ranks_read_what_one_process_reads(
    five_sources: Workspace, tmp_path: Path, ranks: int, source: str
) -> None:
    program = [*warm_python(), "-m", "mpi4py", str(REPOSITORY / "tests" / "store_ranks.py")]
    arguments = [str(five_sources.pack(source, "train")), str(tmp_path)]
    line = launch_command(
        Geometry(ranks_per_node=ranks), [*program, *arguments], launcher="mpiexec"
    )
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("saw everything") == ranks
