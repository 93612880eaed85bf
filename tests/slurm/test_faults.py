"""Runs in which Snakemake, processes of jobs and nodes die at random moments."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from checkout import edit_profile
from slurm.faults import endure
from slurm.runs import (
    SLURM,
    TWENTY_SECONDS,
    Environment,
    assert_nothing_left,
    assert_whole,
    attempts,
    fresh_copy,
    metrics,
    untrained_copy,
)

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("begin", ["from the start", "with the training"])
def test_a_run_survives_whatever_is_killed_at_random(
    packed: Path,
    tmp_path: Path,
    site: Environment,
    undisturbed: Path,
    seed: int,
    begin: str,
) -> None:
    copy = fresh_copy if begin == "from the start" else untrained_copy
    checkout = copy(packed, tmp_path / "mtlpar")
    # Long enough to be hit.
    with (checkout / "src/mtlpar/train/checkpoint.py").open("a") as stream:
        stream.write(TWENTY_SECONDS)
    edit_profile(checkout, "slurm", {"retries": 5})
    story = endure(checkout, *SLURM, "table1", seed=seed, faults=6, environment=site)
    assert story, "nothing went wrong"
    assert_nothing_left(site, checkout)
    assert_whole(checkout)
    assert metrics(checkout) == metrics(undisturbed)
    assert_no_two_writers(checkout, story)


def assert_no_two_writers(checkout: Path, story: list[str]) -> None:
    """Whatever was begun again, nothing had two writers at a time."""
    for path in (checkout / "results/provenance").glob("*/*.attempts.jsonl"):
        tries = attempts(checkout, path.parent.name, path.name.removesuffix(".attempts.jsonl"))
        for before, after in pairwise(tries):
            assert before["started"] + before["seconds"] <= after["started"], (path.name, story)
