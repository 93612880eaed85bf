"""The workflow on a real Slurm, as far as every change is tested with it; the rest is slow.

Shape, account and waiting times of the profiles are adapted to two small nodes and to tests; all
else is what users run. Trainings start their ranks with srun, on both nodes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import edit_profile, finish, run_mtlpar, run_snakemake, start_snakemake
from slurm.runs import (
    FOR_LONG,
    SLURM,
    Environment,
    assert_nothing_left,
    assert_whole,
    states,
    training_runs,
    wait_for,
)

pytestmark = pytest.mark.workflow

# Two ranks start faster than four, where it is not about them.
ONE_NODE = {"set-resources.train.nodes": 1}


def test_the_sample_dag_runs_through_the_slurm_profile(packed: Path, site: Environment) -> None:
    assert_whole(packed)
    assert set(states(site, packed)) == {"COMPLETED"}
    assert "mtl: 4 rank(s)" in (packed / "logs/train/mtl.log").read_text()
    done = run_mtlpar(packed, ["provenance", "results/tables/table1.csv"], site)
    # The training was one job on two nodes.
    assert "2 node(s), 4 rank(s)" in done.stdout
    assert_nothing_left(site, packed)


def test_a_failing_job_is_retried_as_a_new_job_and_its_log_is_shown(
    branch_off: Callable[..., Path], site: Environment
) -> None:
    checkout = branch_off("raise ValueError('this node is broken')\n")
    edit_profile(checkout, "slurm", ONE_NODE)
    status, output = run_snakemake(checkout, *SLURM, "table1", environment=site)
    assert status == 1
    assert states(site, checkout) == ["FAILED", "FAILED"]
    assert "this node is broken" in output
    assert_nothing_left(site, checkout)


def test_ctrl_c_leaves_no_job_and_no_process_behind(
    branch_off: Callable[..., Path], site: Environment
) -> None:
    checkout = branch_off(FOR_LONG)
    edit_profile(checkout, "slurm", ONE_NODE)
    run = start_snakemake(checkout, *SLURM, "table1", environment=site)
    wait_for(training_runs(checkout))
    run.send_signal(signal.SIGINT)
    status, _ = finish(run, timeout_s=300)
    assert status != 0
    assert_nothing_left(site, checkout)


def test_an_unknown_account_is_refused_at_once(
    branch_off: Callable[..., Path], site: Environment
) -> None:
    checkout = branch_off()
    edit_profile(checkout, "slurm", {"default-resources.slurm_account": "nobody"})
    status, output = run_snakemake(checkout, *SLURM, "table1", environment=site)
    assert status == 1
    assert "nobody" in output
    assert_nothing_left(site, checkout)
