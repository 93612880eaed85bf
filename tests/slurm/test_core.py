"""The workflow on a real Slurm, as far as every change is tested with it; the rest is slow.

Shape, account and waiting times of the profiles are adapted to two small nodes and to tests; all
else is what users run, but for `mtlpar`, which is a fork where it is not about how processes end.
Trainings start their ranks with srun, on both nodes.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from checkout import (
    edit_profile,
    environment_of,
    finish,
    run_mtlpar,
    run_snakemake,
    start_snakemake,
    warm_jobs,
)
from slurm.cluster import ACCOUNT
from slurm.runs import (
    DEAF,
    FOR_LONG,
    SLURM,
    Background,
    Environment,
    ask,
    assert_as_if_undisturbed,
    assert_nothing_left,
    assert_whole,
    fresh_copy,
    in_background,
    metrics,
    set_train,
    states,
    training_runs,
    untrained_copy,
    wait_for,
    warm_site,
)
from warm import warm_python

pytestmark = pytest.mark.workflow

_HANG = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, lambda *_: time.sleep(600))
pathlib.Path("hangs").touch()
time.sleep(600)
"""
# Two ranks start faster than four, where it is not about them.
ONE_NODE = {"set-resources.train.nodes": 1}


@pytest.fixture(scope="module")
def killed_run(packed: Path, site: Environment) -> Iterator[Background]:
    """A training that does not hear that its time is over, and is killed."""
    checkout = untrained_copy(packed, packed.parent / "killed", DEAF + FOR_LONG)
    # As many ranks as train on this machine, so that sums are formed in the same order.
    edit_profile(checkout, "slurm", ONE_NODE)
    set_train(checkout, runtime="1 * attempt", slurm_extra=None)
    # Forks die with what Slurm kills in their place.
    with warm_jobs(checkout):
        yield from in_background(
            checkout, *SLURM, "table1", site=warm_site(site), python=warm_python()
        )


def test_the_sample_dag_runs_through_the_frontier_profile(
    packed: Path, site: Environment, killed_run: Background
) -> None:
    # It mostly waits, from now on.
    assert killed_run.process.poll() is None
    assert_whole(packed)
    assert set(states(site, packed)) == {"COMPLETED"}
    assert "mtl: 4 ranks," in (packed / "logs/train/mtl.log").read_text()
    done = run_mtlpar(packed, ["provenance", "results/tables/table1.csv"], site)
    # The training was one job on two nodes.
    assert "2 nodes, 4 ranks" in done.stdout
    assert_nothing_left(site, packed)


def test_a_failing_job_is_retried_as_a_new_job_and_its_log_is_shown(
    branch_off: Callable[..., Path], site: Environment
) -> None:
    checkout = branch_off("raise ValueError('this node is broken')\n")
    edit_profile(checkout, "slurm", ONE_NODE)
    with warm_jobs(checkout):
        status, output = run_snakemake(checkout, *SLURM, "table1", environment=warm_site(site))
    assert status == 1
    assert states(site, checkout) == ["FAILED", "FAILED"]
    assert "this node is broken" in output
    assert_nothing_left(site, checkout)


def test_ctrl_c_leaves_no_job_and_no_process_behind(
    branch_off: Callable[..., Path], site: Environment, tmp_path: Path
) -> None:
    checkout = branch_off(FOR_LONG)
    edit_profile(checkout, "slurm", ONE_NODE)
    # The worst moment: while Snakemake asks about its jobs it has none on its list to cancel.
    asked = tmp_path / "asked"
    for client in ("squeue", "sacct"):
        program = shutil.which(client, path=site["PATH"])
        shim = tmp_path / "slow" / client
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(f'#!/bin/sh\ntouch {asked}\nsleep 3\nexec {program} "$@"\n')
        shim.chmod(0o755)
    # The ranks are forks, which hear what Slurm sends them; Snakemake is not, here and in the job.
    slow = {**warm_site(site), "PATH": f"{tmp_path / 'slow'}:{site['PATH']}"}
    run = start_snakemake(checkout, *SLURM, "table1", environment=slow)
    wait_for(training_runs(checkout))
    asked.unlink(missing_ok=True)
    wait_for(asked.exists)
    run.send_signal(signal.SIGINT)
    status, _ = finish(run, timeout_s=300)
    assert status != 0
    assert_nothing_left(site, checkout)


def test_what_hangs_on_sigterm_dies_with_its_job(
    branch_off: Callable[..., Path], site: Environment
) -> None:
    # Snakemake takes a lock in its handler of SIGTERM, and may have it already. Its shell dies, and
    # a Slurm that finds processes by their parents (proctrack/linuxproc) then knows it no more.
    checkout = branch_off()
    (checkout / "hang.py").write_text(_HANG)
    profile = yaml.safe_load((checkout / "profiles/slurm/config.yaml").read_text())
    command = f"{profile['precommand']} && /bin/sh -c 'python hang.py; true'"
    where = ["--account", ACCOUNT, "--partition=main", f"--chdir={checkout}"]
    variables = environment_of(checkout, site)
    job = ask(variables, "sbatch", "--parsable", *where, "--wrap", command).strip()
    wait_for((checkout / "hangs").exists, seconds=60)
    ask(site, "scancel", job)
    assert_nothing_left(site, checkout)


def test_an_unknown_account_is_refused_at_once(
    branch_off: Callable[..., Path], site: Environment
) -> None:
    checkout = branch_off()
    edit_profile(checkout, "slurm", {"default-resources.slurm_account": "nobody"})
    status, output = run_snakemake(checkout, *SLURM, "table1", environment=warm_site(site))
    assert status == 1
    assert "nobody" in output
    assert_nothing_left(site, checkout)


def test_a_training_that_slurm_kills_at_its_walltime_goes_on_in_a_new_job(
    killed_run: Background, site: Environment, small_run: Path
) -> None:
    killed_run.end()
    *early, _, _ = states(site, killed_run.checkout)
    assert set(early) == {"TIMEOUT"}
    # What it equals was trained without a scheduler.
    assert_as_if_undisturbed(killed_run.checkout, small_run, site)


@pytest.mark.slow
def test_everything_runs_through_the_slurm_profile(packed: Path, site: Environment) -> None:
    checkout = fresh_copy(packed, packed.parent / "other")
    status, output = run_snakemake(checkout, *SLURM, environment=site)
    assert status == 0, output[-5000:]
    assert_whole(checkout)
    assert set(states(site, checkout)) == {"COMPLETED"}
    assert "mtl: 4 ranks," in (checkout / "logs/train/mtl.log").read_text()
    assert metrics(checkout) == metrics(packed)
    assert_nothing_left(site, checkout)
