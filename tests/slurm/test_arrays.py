"""One source on several nodes at once: a job array of the executor's own on a real Slurm."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from checkout import edit_profile, run_snakemake, warm_jobs
from slurm.runs import SLURM, Environment, ask, assert_nothing_left, fresh_copy, states, warm_site

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

# Small enough that files of the sample are read in several pieces.
_SPREAD = "extract: {shares: 4, piece_bytes: 30000}\npack: {shares: 2}\n"
_SOURCE = "ani1x"


def _content(checkout: Path) -> dict[str, bytes]:
    """Data of the source's packs by split."""
    packs = (checkout / "results/packed" / _SOURCE).glob("*.bp")
    return {pack.name: (pack / "data.0").read_bytes() for pack in packs}


def test_tasks_of_an_array_on_both_nodes_write_the_bytes_of_one_job(
    packed: Path, site: Environment, tmp_path: Path
) -> None:
    checkout = fresh_copy(packed, tmp_path / "mtlpar")
    (checkout / "spread.yaml").write_text(_SPREAD)
    # As many cores as extract has: two of its tasks do not fit on one node.
    edit_profile(checkout, "slurm", {"set-resources.pack_share.cpus_per_task": 32})
    arrays = ("--slurm-array-jobs", "extract_share,pack_share", "--configfile", "spread.yaml")
    target = f"results/packed/{_SOURCE}/train.manifest.json"
    with warm_jobs(checkout):
        status, output = run_snakemake(
            checkout, target, *SLURM, *arrays, environment=warm_site(site)
        )
    assert status == 0, output[-5000:]
    assert set(states(site, checkout)) == {"COMPLETED"}
    listed = ask(site, "squeue", "-h", "--states=all", "--array", "-o", "%F %K %N %Z")
    found = [line.split() for line in listed.splitlines() if line.endswith(f" {checkout}")]
    tasks = [(job, node) for job, task, node, _ in found if task != "N/A"]
    # Two arrays, not six jobs; an array of one node would show nothing.
    assert sorted(Counter(job for job, _ in tasks).values()) == [2, 4]
    for array in {job for job, _ in tasks}:
        assert len({node for job, node in tasks if job == array}) == 2
    # Every share has read something: with nothing to divide, one would have read it all.
    parts = list((checkout / "results/extracted" / _SOURCE).glob("*.bp"))
    assert len(parts) >= 4
    assert _content(checkout) == _content(packed)
    assert_nothing_left(site, checkout)
