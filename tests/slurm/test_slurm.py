"""The workflow on a real Slurm: both profiles, and everything that goes wrong on the way.

Shape, account and waiting times of the profiles are adapted to two small nodes and to tests; the
rest is what users run. Trainings start their ranks with srun, on both nodes.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from checkout import (
    copy_checkout,
    edit_profile,
    environment_of,
    finish,
    make_small,
    run_mtlpar,
    run_snakemake,
    start_snakemake,
)
from slurm.cluster import ACCOUNT
from slurm.faults import endure

# Slow: together they would take CI beyond its time.
pytestmark = [pytest.mark.workflow, pytest.mark.slow]

Environment = Mapping[str, str]

_FOR_TESTS = {
    "default-resources.slurm_account": ACCOUNT,
    # Polling is most of the time of a short run; each round that finds nothing adds 10 s.
    "slurm-init-seconds-before-status-checks": 5,
    "max-status-checks-per-second": 2,
    "latency-wait": 10,
    "retries": 1,
    # The ranks of all nodes share two cores.
    "set-threads.extract": 1,
    "set-resources.train.nodes": 2,
    "set-resources.train.tasks_per_node": 2,
    "set-resources.doctor.tasks_per_node": 2,
    # Two cores are all there is, whatever Slurm thinks.
    "set-resources.train.cpus_per_task": 1,
    "set-resources.doctor.cpus_per_task": 1,
    "set-resources.doctor.gpus_per_node": 0,
    "set-resources.train.gpus_per_node": 0,
}
SLURM, FRONTIER = ("--profile", "profiles/slurm"), ("--profile", "profiles/frontier")
# As many ranks as on the two nodes, so that sums are formed in the same order.
LOCAL = ("--set-resources", "train:tasks_per_node=4", "--profile", "profiles/local", "--cores", "2")

# Appended to the training of a copy: it then rests after its first epoch, without using a core.
_REST = """
import time as _time
from mtlpar.parallel.launch import time_left_s as _time_left_s
_save = CheckpointFolder.save
def _save_and_rest(self, state, progress):
    _save(self, state, progress)
    if progress.epoch == 1:
        {rest}
CheckpointFolder.save = _save_and_rest
"""
_A_MOMENT = _REST.format(rest="_time.sleep(3)")
_FOR_LONG = _REST.format(rest="_time.sleep(300)")
_UNTIL_THE_DEADLINE = _REST.format(rest="_time.sleep(max(0, _time_left_s()))")


@pytest.fixture(scope="module")
def site(slurm: Environment, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Slurm, and stand-ins for what Frontier's env.sh finds on the machine."""
    programs = tmp_path_factory.mktemp("site")
    base = programs / "base" / "etc" / "profile.d"
    base.mkdir(parents=True)
    (base / "conda.sh").write_text('conda() { . "$2/bin/activate"; }\n')
    for name, script in {"module": "exit 0", "conda": f"echo {programs / 'base'}"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    # pmi2 goes with the mpich wheel; Frontier itself has Cray's MPI.
    return {"PATH": f"{slurm['PATH'].split(':')[0]}:{programs}:{os.environ['PATH']}",
            "MTLPAR_SRUN_MPI": "pmi2"}  # fmt: skip


@pytest.fixture(scope="module")
def packed(site: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of the repository in which all up to a table ran through profiles/slurm."""
    checkout = copy_checkout(tmp_path_factory.mktemp("slurm") / "mtlpar")
    make_small(checkout)
    for profile in ("slurm", "frontier"):
        edit_profile(checkout, profile, _FOR_TESTS)
    status, output = run_snakemake(checkout, *SLURM, "table1", environment=site)
    assert status == 0, output[-5000:]
    return checkout


@pytest.fixture(scope="module")
def undisturbed(packed: Path) -> dict[str, str]:
    """Errors of the model if it is trained on this machine, without a scheduler."""
    checkout = untrained_copy(packed, packed.parent / "undisturbed")
    status, output = run_snakemake(checkout, *LOCAL, "table1")
    assert status == 0, output[-5000:]
    return metrics(checkout)


@pytest.fixture
def branch_off(packed: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a copy of the finished copy in which the model is not trained yet, with edits."""
    return lambda edit="": untrained_copy(packed, tmp_path / "mtlpar", edit)


def untrained_copy(packed: Path, checkout: Path, edit: str = "") -> Path:
    """Copy a finished run without what training and later stages wrote, and edit its training."""
    shutil.copytree(packed, checkout, symlinks=True)
    for folder in ("models", "checkpoints", "metrics", "predictions", "tables"):
        shutil.rmtree(checkout / "results" / folder)
    with (checkout / "src/mtlpar/train/checkpoint.py").open("a") as stream:
        stream.write(edit)
    return checkout


def fresh_copy(packed: Path, checkout: Path) -> Path:
    """Copy the files of a finished run without its results."""
    ignored = shutil.ignore_patterns("results", "data", ".snakemake", "logs")
    return shutil.copytree(packed, checkout, ignore=ignored)


@dataclass
class Background:
    """A run that goes on while other tests run, for it mostly waits."""

    checkout: Path
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def frontier_run(packed: Path, site: Environment) -> Iterator[Background]:
    """The sample DAG from the start, through profiles/frontier."""
    checkout = fresh_copy(packed, packed.parent / "frontier")
    yield from _in_background(checkout, *FRONTIER, site=site)


@pytest.fixture(scope="module")
def walltime_run(packed: Path, site: Environment) -> Iterator[Background]:
    """A training that cannot end in its first job, and hears in time that this one ends."""
    checkout = untrained_copy(packed, packed.parent / "walltime", _UNTIL_THE_DEADLINE)
    yield from _in_background(_short_jobs(checkout, "2 * attempt"), *SLURM, "table1", site=site)


@pytest.fixture(scope="module")
def timeout_run(packed: Path, site: Environment) -> Iterator[Background]:
    """A training that does not hear that its time is over, and is killed."""
    checkout = untrained_copy(packed, packed.parent / "timeout", _FOR_LONG)
    yield from _in_background(_short_jobs(checkout, "1 * attempt"), *SLURM, "table1", site=site)


def _short_jobs(checkout: Path, runtime: str) -> Path:
    """Give trainings so many minutes."""
    # Slurm sends signals up to a minute early: here that would be before the training begins.
    train = {"runtime": runtime, "slurm_extra": None}
    edit_profile(checkout, "slurm", {f"set-resources.train.{k}": v for k, v in train.items()})
    edit_profile(checkout, "slurm", {"retries": 5})
    return checkout


def _in_background(checkout: Path, *arguments: str, site: Environment) -> Iterator[Background]:
    output = (checkout / "output").open("w")
    process = start_snakemake(checkout, *arguments, environment=site, output=output)
    yield Background(checkout, process)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    output.close()


def end_of(run: Background) -> str:
    """Wait for a run to end well; returns what it printed."""
    status = run.process.wait(timeout=1500)
    output = (run.checkout / "output").read_text()
    assert status == 0, output[-5000:]
    return output


def squeue(site: Environment, workdir: Path) -> list[str]:
    """Ids of the jobs of a folder that wait or run."""
    pairs = (line.split("|") for line in _ask(site, "squeue", "-h", "-o", "%i|%Z").splitlines())
    return [job for job, folder in pairs if folder == str(workdir)]


def states(site: Environment, workdir: Path) -> list[str]:
    """How the jobs of a folder ended or stand, in the order in which they were submitted."""
    text = _ask(site, "sacct", "-XnP", "--starttime=now-1hour", "-o", "WorkDir,State")
    pairs = (line.split("|") for line in text.splitlines())
    return [state.split()[0] for folder, state in pairs if folder == str(workdir)]


def _ask(site: Environment, *command: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **site}, capture_output=True, text=True, check=True
    )
    return done.stdout


def wait_for(condition: Callable[[], bool], *, seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.2)


def training_runs(checkout: Path) -> Callable[[], bool]:
    """Whether the training wrote its first checkpoint."""
    return lambda: any((checkout / "results/checkpoints/mtl").glob("*/step-*/progress.json"))


def attempts(checkout: Path) -> list[str]:
    """How the attempts to train ended, the first one first."""
    lines = (checkout / "results/provenance/train/mtl.attempts.jsonl").read_text().splitlines()
    return [json.loads(line)["outcome"] for line in lines]


def metrics(checkout: Path) -> dict[str, str]:
    """Test errors of the model by source, to the last digit."""
    return {path.name: path.read_text() for path in (checkout / "results/metrics").glob("*/*.json")}


def assert_whole(checkout: Path) -> None:
    with (checkout / "results/tables/table1.csv").open() as stream:
        rows = list(csv.reader(stream))
    assert len(rows) >= 2
    assert not [path for path in (checkout / ".snakemake/incomplete").rglob("*") if path.is_file()]


def train_and_lose_login_node(checkout: Path, site: Environment) -> None:
    """Start the workflow, and kill Snakemake when the training has written a checkpoint."""
    run = start_snakemake(checkout, *SLURM, "table1", environment=site)
    wait_for(training_runs(checkout))
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()


def test_the_sample_dag_runs_through_the_slurm_profile(
    packed: Path, site: Environment, walltime_run: Background
) -> None:
    # Runs from now on, for it mostly waits.
    assert walltime_run.process.poll() is None
    assert_whole(packed)
    assert set(states(site, packed)) == {"COMPLETED"}
    assert "mtl: 4 rank(s)" in (packed / "logs/train/mtl.log").read_text()
    done = run_mtlpar(packed, ["provenance", "results/tables/table1.csv"], site)
    # The training was one job on two nodes.
    assert "2 node(s), 4 rank(s)" in done.stdout


def test_ranks_of_srun_come_to_the_same_errors_as_those_of_this_machine(
    packed: Path, undisturbed: dict[str, str]
) -> None:
    assert len(undisturbed) == 2
    assert metrics(packed) == undisturbed


def test_a_failing_job_is_retried_as_a_new_job_and_its_log_is_shown(
    branch_off: Callable[..., Path], site: Environment
) -> None:
    checkout = branch_off("raise ValueError('this node is broken')\n")
    before = len(states(site, checkout))
    status, output = run_snakemake(checkout, *SLURM, "table1", environment=site)
    assert status == 1
    assert states(site, checkout)[before:] == ["FAILED", "FAILED"]
    assert "this node is broken" in output
    assert squeue(site, checkout) == []


def test_ctrl_c_leaves_no_job_behind(branch_off: Callable[..., Path], site: Environment) -> None:
    checkout = branch_off(_FOR_LONG)
    run = start_snakemake(checkout, *SLURM, "table1", environment=site)
    wait_for(training_runs(checkout))
    run.send_signal(signal.SIGINT)
    status, _ = finish(run, timeout_s=300)
    assert status != 0
    wait_for(lambda: squeue(site, checkout) == [])


def test_after_a_lost_login_node_an_adopted_job_is_not_run_again(
    branch_off: Callable[..., Path], site: Environment
) -> None:
    # Snakemake's notes in the copy are of a training by other code: by them it would run again.
    checkout = branch_off(_A_MOMENT)
    train_and_lose_login_node(checkout, site)
    adopted = run_mtlpar(checkout, ["jobs", "--adopt"], site)
    assert adopted.returncode == 0, adopted.stderr
    assert "kept: train mtl" in adopted.stdout
    status, output = run_snakemake(checkout, *SLURM, "table1", environment=site)
    assert status == 0, output[-5000:]
    assert states(site, checkout) == ["COMPLETED", "COMPLETED"]
    # The copy begins with the attempt of the run that it is a copy of.
    assert attempts(checkout)[1:] == ["done"]
    # What it was made with is known: other settings are another training.
    other = ("--dry-run", "--config", "train__epochs=3")
    _, plan = run_snakemake(checkout, *SLURM, "table1", *other, environment=site)
    assert re.search("^train +1$", plan, re.MULTILINE)


def test_after_a_lost_login_node_jobs_are_found_and_cancelled_and_the_run_goes_on(
    branch_off: Callable[..., Path], site: Environment, undisturbed: dict[str, str]
) -> None:
    checkout = branch_off(_FOR_LONG)
    train_and_lose_login_node(checkout, site)
    (job,) = squeue(site, checkout)
    listed = run_mtlpar(checkout, ["jobs"], site)
    assert listed.returncode == 0, listed.stderr
    assert job in listed.stdout
    assert "train" in listed.stdout
    cancelled = run_mtlpar(checkout, ["jobs", "--cancel"], site)
    assert cancelled.returncode == 0, cancelled.stderr
    assert squeue(site, checkout) == []
    # The lock is gone too, and the training goes on where it was.
    status, output = run_snakemake(checkout, *SLURM, "table1", environment=site)
    assert status == 0, output[-5000:]
    assert "resumed after epoch" in (checkout / "logs/train/mtl.log").read_text()
    assert metrics(checkout) == undisturbed


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
    assert "MPI finds 1 rank(s), but 2 were launched" in results["none"].stderr
    # The same command is sound as soon as both speak the same language.
    assert re.search("MPI and torch +agree on ranks", results["pmi2"].stdout)


def test_an_unknown_account_is_refused_at_once(
    branch_off: Callable[..., Path], site: Environment
) -> None:
    checkout = branch_off()
    edit_profile(checkout, "slurm", {"default-resources.slurm_account": "nobody"})
    status, output = run_snakemake(checkout, *SLURM, "table1", environment=site)
    assert status == 1
    assert "nobody" in output
    assert squeue(site, checkout) == []


def test_a_training_longer_than_its_walltime_goes_on_in_the_next_job(
    walltime_run: Background, site: Environment, undisturbed: dict[str, str]
) -> None:
    end_of(walltime_run)
    checkout = walltime_run.checkout
    *early, train, evaluate = states(site, checkout)
    assert early
    assert not {"COMPLETED", "CANCELLED"} & set(early)
    assert train == evaluate == "COMPLETED"
    *unfinished, last = attempts(checkout)[1:]
    assert last == "done"
    # On a busy machine Slurm may be faster than the checkpoint.
    assert set(unfinished) <= {"to be continued", "killed"}
    assert metrics(checkout) == undisturbed


def test_a_training_that_slurm_kills_at_its_walltime_goes_on_in_the_next_job(
    timeout_run: Background, site: Environment, undisturbed: dict[str, str]
) -> None:
    end_of(timeout_run)
    *early, train, evaluate = states(site, timeout_run.checkout)
    assert early
    assert set(early) == {"TIMEOUT"}
    assert train == evaluate == "COMPLETED"
    assert "resumed after epoch" in (timeout_run.checkout / "logs/train/mtl.log").read_text()
    assert metrics(timeout_run.checkout) == undisturbed


def test_the_sample_dag_runs_through_the_frontier_profile(
    frontier_run: Background, site: Environment
) -> None:
    end_of(frontier_run)
    assert_whole(frontier_run.checkout)
    assert set(states(site, frontier_run.checkout)) == {"COMPLETED"}
    assert "mtl: 4 rank(s)" in (frontier_run.checkout / "logs/train/mtl.log").read_text()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("begin", ["from the start", "with the training"])
def test_a_run_survives_whatever_is_killed_at_random(
    packed: Path,
    tmp_path: Path,
    site: Environment,
    undisturbed: dict[str, str],
    seed: int,
    begin: str,
) -> None:
    copy = fresh_copy if begin == "from the start" else untrained_copy
    checkout = copy(packed, tmp_path / "mtlpar")
    # Long enough to be hit.
    with (checkout / "src/mtlpar/train/checkpoint.py").open("a") as stream:
        stream.write(_REST.format(rest="_time.sleep(20)"))
    edit_profile(checkout, "slurm", {"retries": 5})
    story = endure(checkout, *SLURM, "table1", seed=seed, faults=6, environment=site)
    assert story, "nothing went wrong"
    assert_whole(checkout)
    assert metrics(checkout) == undisturbed
    assert squeue(site, checkout) == []
    # Whatever was begun again, nothing had two writers at a time.
    for path in (checkout / "results/provenance").glob("*/*.attempts.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for before, after in pairwise(lines):
            assert before["started"] + before["seconds"] <= after["started"], (path.name, story)
