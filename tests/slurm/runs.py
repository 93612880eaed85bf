"""Runs of the workflow on the throw-away Slurm, and questions about them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkout import copy_checkout, edit_profile, make_small, start_snakemake
from slurm.cluster import ACCOUNT
from warm import warm_environment

Environment = Mapping[str, str]

FOR_TESTS: dict[str, Any] = {
    "default-resources.slurm_account": ACCOUNT,
    "max-status-checks-per-second": 5,
    "latency-wait": 10,
    "retries": 1,
    # The ranks of all nodes share two cores.
    "set-threads.extract": 1,
    "set-threads.pack": 1,
    "set-threads.pack_share": 1,
    "set-resources.train.nodes": 2,
    "set-resources.train.tasks_per_node": 2,
    "set-resources.doctor.tasks_per_node": 2,
    # Two cores are all there is, whatever Slurm thinks.
    "set-resources.train.cpus_per_task": 1,
    "set-resources.doctor.cpus_per_task": 1,
    "set-resources.doctor.gpus_per_node": 0,
    "set-resources.train.gpus_per_node": 0,
    # Trainings of several tests share the nodes.
    "set-resources.train.gres": "gpu:1",
}
SLURM, FRONTIER = ("--profile", "profiles/slurm"), ("--profile", "profiles/frontier")
# As many ranks as on the two nodes, so that sums are formed in the same order.
LOCAL = ("--set-resources", "train:tasks_per_node=4", "--profile", "profiles/local", "--cores", "2")

MODEL = "results/models/mtl/model.pt"

# Appended to the Snakefile of a copy. Snakemake waits ten seconds longer after each question to
# Slurm that brings no news, which is most of the time of short jobs.
IMPATIENT = """
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
RemoteExecutor.next_seconds_between_status_checks = property(lambda _: 1, lambda _, seconds: None)
"""

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
A_MOMENT = _REST.format(rest="_time.sleep(3)")
TWENTY_SECONDS = _REST.format(rest="_time.sleep(20)")
FOR_LONG = _REST.format(rest="_time.sleep(300)")
_SIGNALS = """
import mtlpar.train.stopping as _stopping
_signals = []
_note = _stopping.StopRequest._note
def _note_and_tell(self, number, frame):
    _note(self, number, frame)
    _signals.append(number)
_stopping.StopRequest._note = _note_and_tell
"""
# Neither signals nor the deadline, which a busy machine reaches before the rest begins.
DEAF = """
import mtlpar.train.stopping as _stopping
_stopping.StopRequest.reason = property(lambda _: None)
"""
UNTIL_A_SIGNAL = _SIGNALS + _REST.format(rest="while not _signals: _time.sleep(0.1)")
UNTIL_THE_DEADLINE = _REST.format(rest="_time.sleep(max(0, _time_left_s()))")


def small_checkout(folder: Path) -> Path:
    """A small copy of the repository, with profiles for the clusters of these tests."""
    checkout = copy_checkout(folder)
    make_small(checkout)
    for_clusters(checkout)
    return checkout


def for_clusters(checkout: Path) -> None:
    """Change the profiles of a copy for the clusters of these tests."""
    with (checkout / "Snakefile").open("a") as stream:
        stream.write(IMPATIENT)
    for profile in ("slurm", "frontier"):
        edit_profile(checkout, profile, FOR_TESTS)


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

    def end(self) -> str:
        """Wait for the run to end well; returns what it printed."""
        status = self.process.wait(timeout=1500)
        output = (self.checkout / "output").read_text()
        assert status == 0, output[-5000:]
        return output


def in_background(
    checkout: Path,
    *arguments: str,
    site: Environment,
    python: Sequence[str] = (sys.executable,),
) -> Iterator[Background]:
    """Start a run; for fixtures."""
    output = (checkout / "output").open("w")
    process = start_snakemake(checkout, *arguments, environment=site, output=output, python=python)
    yield Background(checkout, process)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    output.close()


def with_clients_of(cluster: Environment, site: Environment) -> Environment:
    """A site in which the clients talk to a cluster, whatever others it has."""
    return {**site, "PATH": f"{cluster['PATH'].split(':')[0]}:{site['PATH']}"}


def warm_site(site: Environment) -> Environment:
    """A site where Snakemake and `mtlpar` are forks, where it is not about how processes end."""
    return {**site, "MTLPAR_ENV": str(warm_environment())}


def set_train(checkout: Path, **resources: Any) -> Path:
    """Give trainings other resources, and as many jobs as they need."""
    changes = {f"set-resources.train.{name}": value for name, value in resources.items()}
    edit_profile(checkout, "slurm", {**changes, "retries": 5})
    return checkout


def squeue(site: Environment, workdir: Path) -> list[str]:
    """Ids of the jobs of a folder that wait or run."""
    pairs = (line.split("|") for line in ask(site, "squeue", "-h", "-o", "%i|%Z").splitlines())
    return [job for job, folder in pairs if folder == str(workdir)]


def states(site: Environment, workdir: Path) -> list[str]:
    """How the jobs of a folder ended or stand, in the order in which they were submitted."""
    # Not sacct, which knows nothing without accounting; see MinJobAge in cluster.py.
    text = ask(site, "squeue", "-h", "--states=all", "--sort=i", "-o", "%T|%Z")
    pairs = (line.split("|") for line in text.splitlines())
    return [state for state, folder in pairs if folder == str(workdir)]


def ask(site: Environment, *command: str) -> str:
    """What a client of Slurm answers."""
    done = subprocess.run(
        command, env={**os.environ, **site}, capture_output=True, text=True, check=True
    )
    return done.stdout


def wait_for(condition: Callable[[], bool], *, seconds: float = 900) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.2)


def training_runs(checkout: Path) -> Callable[[], bool]:
    """Whether the training wrote its first checkpoint."""
    return lambda: any((checkout / "results/checkpoints/mtl").glob("*/step-*/progress.json"))


def attempts(checkout: Path, stage: str = "train", target: str = "mtl") -> list[dict[str, Any]]:
    """The attempts at an output, the first one first."""
    path = checkout / f"results/provenance/{stage}/{target}.attempts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics(checkout: Path) -> dict[str, str]:
    """Test errors of the model by source, to the last digit."""
    return {path.name: path.read_text() for path in (checkout / "results/metrics").glob("*/*.json")}


def assert_whole(checkout: Path) -> None:
    """A run has come to its end: a table, and nothing that Snakemake takes for unfinished."""
    with (checkout / "results/tables/table1.csv").open() as stream:
        rows = list(csv.reader(stream))
    assert len(rows) >= 2
    assert not [path for path in (checkout / ".snakemake/incomplete").rglob("*") if path.is_file()]


def processes(checkout: Path) -> dict[int, list[str]]:
    """Command lines of the processes that run in a folder."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        # One that has just ended has no folder.
        with suppress(OSError):
            if (process / "cwd").resolve(strict=True) == checkout.resolve():
                words = (process / "cmdline").read_bytes().decode().split("\0")
                found[int(process.name)] = words[:-1]
    return found


def assert_nothing_left(site: Environment, checkout: Path) -> None:
    """Neither Slurm nor this machine holds anything of a run: no job, no rank, no Snakemake."""
    # Slurm takes a few seconds (KillWait) to end what does not end by itself.
    deadline = time.monotonic() + 60
    while left := [*squeue(site, checkout), *processes(checkout).items()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def assert_as_if_undisturbed(checkout: Path, undisturbed: Path, site: Environment) -> None:
    """A training took several jobs, each later one went on, and nothing else tells of it."""
    *early, train, evaluate = states(site, checkout)
    assert early
    assert not {"COMPLETED", "CANCELLED"} & set(early)
    assert train == evaluate == "COMPLETED"
    # The copy begins with the attempt of the run that it is a copy of.
    tries = attempts(checkout)[1:]
    assert tries[-1]["outcome"] == "done"
    assert len({attempt["job"] for attempt in tries}) == len(tries) > 1
    assert "resumed after epoch" in (checkout / "logs/train/mtl.log").read_text()
    assert (checkout / MODEL).read_bytes() == (undisturbed / MODEL).read_bytes()
    assert metrics(checkout) == metrics(undisturbed)
    assert_nothing_left(site, checkout)
