"""One Slurm for all tests of this folder; without it they are skipped, and CI is told so."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from slurm import cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """Environment in which the clients of Slurm talk to a throw-away cluster."""
    if reason := cluster.missing():
        pytest.skip(f"no Slurm: {reason}")
    # A short path: names of sockets are limited to about 100 characters.
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mtlpar-slurm-"))
        try:
            environment = stack.enter_context(cluster.running(Path(folder)))
        except (RuntimeError, TimeoutError) as error:
            # What a sandbox forbids its daemons is no fault of the code under test.
            pytest.skip(f"no Slurm: it does not start here: {error}")
        yield environment
