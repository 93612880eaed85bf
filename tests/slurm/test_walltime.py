"""Trainings that are ended before they are done, in every way that Slurm knows.

Each goes on in a new job, and its model is that of an undisturbed training, byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkout import start_snakemake
from slurm.runs import (
    MODEL,
    SLURM,
    UNTIL_A_SIGNAL,
    UNTIL_THE_DEADLINE,
    Background,
    Environment,
    ask,
    assert_as_if_undisturbed,
    attempts,
    in_background,
    metrics,
    set_train,
    squeue,
    training_runs,
    untrained_copy,
    wait_for,
)

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def signalled_run(packed: Path, site: Environment) -> Iterator[Background]:
    """A training to which Slurm sends a signal before its time is over."""
    checkout = untrained_copy(packed, packed.parent / "signalled", UNTIL_A_SIGNAL)
    # Slurm sends signals up to a minute early: after one minute at least, after two at most.
    set_train(checkout, runtime="2 + attempt", slurm_extra="--signal=USR1@60")
    yield from in_background(checkout, *SLURM, "table1", site=site)


@pytest.fixture(scope="module")
def warned_run(packed: Path, site: Environment) -> Iterator[Background]:
    """A training that knows when its job ends, and gets no signal."""
    checkout = untrained_copy(packed, packed.parent / "warned", UNTIL_THE_DEADLINE)
    set_train(checkout, runtime="2 * attempt", slurm_extra=None)
    yield from in_background(checkout, *SLURM, "table1", site=site)


def test_ranks_of_srun_come_to_the_same_model_as_those_of_this_machine(
    packed: Path,
    undisturbed: Path,
    signalled_run: Background,
    warned_run: Background,
) -> None:
    # These mostly wait, from now on.
    for run in (signalled_run, warned_run):
        assert run.process.poll() is None
    assert (packed / MODEL).read_bytes() == (undisturbed / MODEL).read_bytes()
    assert metrics(packed) == metrics(undisturbed)


def train_with_a_signal(checkout: Path, site: Environment, signal: str) -> None:
    """Run the workflow, and send the training a signal when it has written a checkpoint."""
    run = start_snakemake(checkout, *SLURM, "table1", environment=site)
    wait_for(training_runs(checkout))
    (job,) = squeue(site, checkout)
    ask(site, "scancel", f"--signal={signal}", job)
    output, _ = run.communicate(timeout=900)
    assert run.returncode == 0, output[-5000:]


@pytest.mark.parametrize("signal", ["USR1", "TERM"])
def test_a_training_that_hears_a_signal_goes_on_in_a_new_job(
    branch_off: Callable[..., Path], site: Environment, undisturbed: Path, signal: str
) -> None:
    checkout = set_train(branch_off(UNTIL_A_SIGNAL), runtime=30)
    train_with_a_signal(checkout, site, signal)
    assert [attempt["outcome"] for attempt in attempts(checkout)[1:]] == ["to be continued", "done"]
    assert_as_if_undisturbed(checkout, undisturbed, site)


def test_nodes_and_minutes_of_a_training_grow_with_the_attempt(
    branch_off: Callable[..., Path], site: Environment
) -> None:
    checkout = branch_off(UNTIL_A_SIGNAL)
    set_train(checkout, nodes="min(2, attempt)", runtime="min(40, 30 * attempt)")
    train_with_a_signal(checkout, site, "USR1")
    fields = "WorkDir,AllocNodes,TimelimitRaw"
    jobs = ask(site, "sacct", "-XnP", "--starttime=now-1hour", "-o", fields).splitlines()
    trainings = [job.split("|")[1:] for job in jobs if job.startswith(f"{checkout}|")][:-1]
    assert trainings == [["1", "30"], ["2", "40"]]
    log = (checkout / "logs/train/mtl.log").read_text()
    assert "mtl: 4 ranks," in log
    assert "resumed after epoch" in log


def test_a_training_that_slurm_warns_before_its_walltime_goes_on_in_a_new_job(
    signalled_run: Background, site: Environment, undisturbed: Path
) -> None:
    signalled_run.end()
    tries = attempts(signalled_run.checkout)[1:]
    assert [attempt["outcome"] for attempt in tries] == ["to be continued", "done"]
    assert_as_if_undisturbed(signalled_run.checkout, undisturbed, site)


def test_a_training_that_knows_its_walltime_goes_on_in_a_new_job(
    warned_run: Background, site: Environment, undisturbed: Path
) -> None:
    warned_run.end()
    # On a busy machine Slurm may be faster than the checkpoint.
    outcomes = {attempt["outcome"] for attempt in attempts(warned_run.checkout)[1:-1]}
    assert outcomes <= {"to be continued", "killed"}
    assert_as_if_undisturbed(warned_run.checkout, undisturbed, site)
