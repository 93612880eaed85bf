"""The workflow through profiles/aurora, with stand-ins for PBS Pro, PALS and the site's modules."""

from __future__ import annotations

import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from checkout import (
    edit_profile,
    partly_run,
    run_mtlpar,
    run_snakemake,
    start_snakemake,
    warm_jobs,
)
from warm import warm_python, with_warm_programs

pytestmark = [pytest.mark.workflow, pytest.mark.mpi]

AURORA = ("--profile", "profiles/aurora")
STANDINS = Path(__file__).parent / "pbs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of the login node."""
    folder = tmp_path_factory.mktemp("pbs")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "module").write_text("#!/bin/sh\n")
    (programs / "module").chmod(0o755)
    # As on the machine, where MPI is the site's, the environment brings no mpiexec of its own.
    (folder / "env" / "bin").mkdir(parents=True)
    (folder / "env" / "bin" / "activate").write_text(f'PATH="$PATH:{sys.prefix}/bin"\n')
    path = f"{STANDINS}:{programs}:{with_warm_programs(os.environ['PATH'])}"
    return {
        "PBS_STANDIN": str(folder),
        "PBS_STANDIN_PATH": path,
        "PBS_STANDIN_MPIEXEC": f"{sys.prefix}/bin/mpiexec",
        "PATH": path,
        "MTLPAR_ENV": str(folder / "env"),
    }


@pytest.fixture(scope="module")
def checkout(
    small_run: Path, tmp_path_factory: pytest.TempPathFactory, site: dict[str, str]
) -> Path:
    """A small copy of the repository in which a job of each kind ran through profiles/aurora."""
    folder = partly_run(small_run, tmp_path_factory.mktemp("aurora") / "mtlpar")
    # The ranks of all nodes share this machine; waiting would be most of the time.
    changes = {
        "default-resources.pbs_account": "proj123",
        "latency-wait": 10,
        "max-status-checks-per-second": 5,
        "seconds-between-status-checks": 1,
        "retries": 1,
        "set-threads.extract": 1,
        "set-resources.train.nodes": 2,
        "set-resources.train.tasks_per_node": 1,
        "set-resources.doctor.nodes": 1,
        "set-resources.doctor.tasks_per_node": 2,
        "set-resources.doctor.cpus_per_task": 1,
        "set-resources.doctor.gpus_per_node": 0,
    }
    edit_profile(folder, "aurora", changes)
    with warm_jobs(folder):
        status, output = run_snakemake(folder, *AURORA, "table1", environment=site)
    assert status == 0, output[-5000:]
    return folder


def arguments_of_jobs(site: dict[str, str]) -> list[list[str]]:
    # A job has its folder a moment before its arguments.
    written = Path(site["PBS_STANDIN"]).glob("[0-9]*/arguments")
    ordered = sorted(written, key=lambda path: int(path.parent.name))
    return [path.read_text().splitlines() for path in ordered]


def test_the_sample_dag_runs_through_the_aurora_profile(
    checkout: Path, site: dict[str, str]
) -> None:
    assert (checkout / "results/tables/table1.csv").exists()
    jobs = arguments_of_jobs(site)
    names = [arguments[arguments.index("-N") + 1].split(".")[1] for arguments in jobs]
    # One job per source or model, each with what PBS asks for.
    assert sorted(names) == ["doctor", "evaluate", "extract", "normalize", "pack", "train"]
    for arguments in jobs:
        pairs = list(pairwise(arguments))
        assert ("-A", "proj123") in pairs
        assert ("-l", "filesystems=home:flare") in pairs
    # PALS starts the ranks of both nodes, bound to the cores that env.sh lists.
    lines = Path(site["PBS_STANDIN"], "mpiexec").read_text().splitlines()
    (train,) = (line for line in lines if "mtlpar train" in line)
    assert train.startswith("-n 2 --ppn 1 --envall --cpu-bind=list:1-8:9-16:")
    assert "mtl: 2 ranks," in (checkout / "logs/train/mtl.log").read_text()
    provenance = run_mtlpar(checkout, ["provenance", "results/tables/table1.csv"], site)
    assert ".standin on" in provenance.stdout


def test_jobs_of_pbs_give_the_bytes_of_a_run_on_this_machine(
    checkout: Path, small_run: Path
) -> None:
    # Provenance differs between machines and times; it must not be inside the outputs.
    made = ("packed/*/*.manifest.json", "models/*/model.pt", "metrics/*/*.json", "tables/*.csv")
    for pattern in made:
        paths = list((checkout / "results").glob(pattern))
        assert paths
        for path in paths:
            name = path.relative_to(checkout)
            assert path.read_bytes() == (small_run / name).read_bytes(), name


@pytest.mark.slow
def test_a_failed_job_is_sent_again(checkout: Path, site: dict[str, str]) -> None:
    before = len(arguments_of_jobs(site))
    status, _ = run_snakemake(
        checkout, *AURORA, "--forcerun", "evaluate", "--config", "evaluate__batch_atoms=-1",
        environment=site,
    )  # fmt: skip
    # A setting that is refused before any job: nothing was sent.
    assert status != 0
    assert len(arguments_of_jobs(site)) == before
    model = checkout / "results/models/mtl/model.pt"
    content = model.read_bytes()
    model.write_bytes(b"broken")
    status, output = run_snakemake(checkout, *AURORA, "table1", environment=site)
    model.write_bytes(content)
    assert status != 0
    sent = [arguments[1] for arguments in arguments_of_jobs(site)[before:]]
    assert len(sent) == 2
    assert all(name.startswith("mtlpar.evaluate.") for name in sent)
    assert "evaluate" in output


def test_jobs_of_a_lost_login_node_are_found_and_cancelled(
    checkout: Path, site: dict[str, str]
) -> None:
    for path in (checkout / "results/metrics").rglob("*.json"):
        path.unlink()
    stage = checkout / "src/mtlpar/evaluate/stage.py"
    stage.write_text(stage.read_text() + "\nimport time\ntime.sleep(600)\n")
    before = len(arguments_of_jobs(site))
    # In the job no fork: it would not belong to the group of processes that qdel ends.
    run = start_snakemake(checkout, *AURORA, "table1", environment=site, python=warm_python())
    try:
        deadline = time.monotonic() + 300
        while len(arguments_of_jobs(site)) == before and time.monotonic() < deadline:
            time.sleep(0.2)
        # Snakemake writes the job's id down after qsub returns.
        time.sleep(2)
    finally:
        # Left alone, it would fail whatever test comes next in this process.
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    job = f"{before + 1}.standin"
    listed = run_mtlpar(checkout, ["jobs"], site)
    assert job in listed.stdout, listed.stderr
    cancelled = run_mtlpar(checkout, ["jobs", "--cancel"], site)
    assert cancelled.returncode == 0, cancelled.stderr
    assert job not in run_mtlpar(checkout, ["jobs"], site).stdout
    assert not (checkout / ".snakemake/locks").exists()
