"""The sample DAG through profiles/frontier itself, shape and account aside."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkout import run_snakemake
from slurm.runs import (
    FRONTIER,
    Environment,
    assert_nothing_left,
    assert_whole,
    fresh_copy,
    metrics,
    states,
)

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


def test_the_sample_dag_runs_through_the_frontier_profile(packed: Path, site: Environment) -> None:
    checkout = fresh_copy(packed, packed.parent / "frontier")
    status, output = run_snakemake(checkout, *FRONTIER, environment=site)
    assert status == 0, output[-5000:]
    assert_whole(checkout)
    assert set(states(site, checkout)) == {"COMPLETED"}
    assert "mtl: 4 rank(s)" in (checkout / "logs/train/mtl.log").read_text()
    assert metrics(checkout) == metrics(packed)
    assert_nothing_left(site, checkout)
