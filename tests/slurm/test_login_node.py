"""Jobs that outlive the Snakemake that sent them, and ranks that srun does not introduce."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import environment_of, run_mtlpar, run_snakemake, start_snakemake
from slurm.cluster import ACCOUNT
from slurm.runs import (
    A_MOMENT,
    FOR_LONG,
    SLURM,
    Environment,
    assert_nothing_left,
    attempts,
    metrics,
    squeue,
    states,
    training_runs,
    wait_for,
)

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


def train_and_lose_login_node(checkout: Path, site: Environment) -> None:
    """Start the workflow, and kill Snakemake when the training has written a checkpoint."""
    run = start_snakemake(checkout, *SLURM, "table1", environment=site)
    wait_for(training_runs(checkout))
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()


def test_after_a_lost_login_node_a_plain_start_keeps_what_the_job_makes(
    branch_off: Callable[..., Path], site: Environment
) -> None:
    # Snakemake's notes in the copy are of a training by other code: by them it would run again.
    checkout = branch_off(A_MOMENT)
    train_and_lose_login_node(checkout, site)
    status, output = run_snakemake(checkout, *SLURM, "table1", environment=site)
    assert status == 0, output[-5000:]
    # No second training was sent beside it or after it.
    assert "Kept, though no Snakemake saw its job end: train mtl" in output
    assert states(site, checkout) == ["COMPLETED", "COMPLETED"]
    # The copy begins with the attempt of the run that it is a copy of.
    assert [attempt["outcome"] for attempt in attempts(checkout)[1:]] == ["done"]
    # What it was made with is known: other settings are another training.
    other = ("--dry-run", "--config", "train__epochs=3")
    _, plan = run_snakemake(checkout, *SLURM, "table1", *other, environment=site)
    assert re.search("^train +1$", plan, re.MULTILINE)


def test_after_a_lost_login_node_jobs_are_found_and_cancelled_and_the_run_goes_on(
    branch_off: Callable[..., Path], site: Environment, undisturbed: Path
) -> None:
    checkout = branch_off(FOR_LONG)
    train_and_lose_login_node(checkout, site)
    (job,) = squeue(site, checkout)
    listed = run_mtlpar(checkout, ["jobs"], site)
    assert listed.returncode == 0, listed.stderr
    assert job in listed.stdout
    assert "train" in listed.stdout
    cancelled = run_mtlpar(checkout, ["jobs", "--cancel"], site)
    assert cancelled.returncode == 0, cancelled.stderr
    assert_nothing_left(site, checkout)
    # The lock is gone too, and the training goes on where it was.
    status, output = run_snakemake(checkout, *SLURM, "table1", environment=site)
    assert status == 0, output[-5000:]
    assert "resumed after epoch" in (checkout / "logs/train/mtl.log").read_text()
    assert metrics(checkout) == metrics(undisturbed)


def test_srun_with_an_mpi_it_does_not_know_is_found_out(packed: Path, site: Environment) -> None:
    line = ["srun", "--account", ACCOUNT, "--partition=gpu", "--ntasks=2", "--kill-on-bad-exit=1"]
    doctor = [sys.executable, "-m", "mtlpar", "doctor"]
    results = {}
    for mpi in ("none", "pmi2"):
        results[mpi] = subprocess.run(
            [*line, f"--mpi={mpi}", *doctor],
            cwd=packed,
            env=environment_of(packed, site),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert results["none"].returncode != 0
    assert "MPI finds 1 rank, but 2 were launched" in results["none"].stderr
    # The same command is sound as soon as both speak the same language.
    assert re.search("MPI and torch +agree on ranks", results["pmi2"].stdout)
