"""One Slurm for all tests of this folder; without it they are skipped, and CI is told so."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from checkout import partly_run, run_snakemake, warm_jobs
from slurm import cluster
from slurm.runs import (
    FRONTIER,
    LOCAL,
    Environment,
    for_clusters,
    metrics,
    untrained_copy,
    warm_site,
    with_clients_of,
)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Environment]:
    """Environment in which the clients of Slurm talk to a throw-away cluster."""
    if reason := cluster.missing():
        pytest.skip(f"no Slurm: {reason}")
    # A short path: names of sockets are limited to about 100 characters.
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mtlpar-slurm-"))
        try:
            environment = stack.enter_context(cluster.running(Path(folder)))
        except (RuntimeError, TimeoutError) as error:
            # What a sandbox forbids its daemons is no fault of the code under test.
            pytest.skip(f"no Slurm: it does not start here: {error}")
        yield environment


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Stand-ins for what Frontier's env.sh finds on the machine, without a Slurm."""
    programs = tmp_path_factory.mktemp("site")
    base = programs / "base" / "etc" / "profile.d"
    base.mkdir(parents=True)
    (base / "conda.sh").write_text('conda() { . "$2/bin/activate"; }\n')
    for name, script in {"module": "exit 0", "conda": f"echo {programs / 'base'}"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    # pmi2 goes with the mpich wheel, Frontier itself has Cray's MPI; why libfabric: see
    # profiles/slurm/env.sh.
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "MTLPAR_SRUN_MPI": "pmi2",
        "MPIR_CVAR_CH4_NETMOD": "ofi",
        "FI_PROVIDER": "tcp",
    }


@pytest.fixture(scope="session")
def site(slurm: Environment, stand_ins: Environment) -> Environment:
    """Slurm, and the stand-ins."""
    return with_clients_of(slurm, stand_ins)


@pytest.fixture(scope="session")
def packed(site: Environment, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of the repository in which a job of each kind ran through profiles/frontier."""
    checkout = partly_run(small_run, tmp_path_factory.mktemp("slurm") / "mtlpar")
    for_clusters(checkout)
    with warm_jobs(checkout):
        status, output = run_snakemake(checkout, *FRONTIER, "table1", environment=warm_site(site))
    assert status == 0, output[-5000:]
    return checkout


@pytest.fixture(scope="session")
def undisturbed(packed: Path) -> Path:
    """A copy in which the model was trained on this machine, without a scheduler."""
    checkout = untrained_copy(packed, packed.parent / "undisturbed")
    status, output = run_snakemake(checkout, *LOCAL, "table1")
    assert status == 0, output[-5000:]
    assert len(metrics(checkout)) == 2
    return checkout


@pytest.fixture
def branch_off(packed: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a copy of the finished copy in which the model is not trained yet, with edits."""
    return lambda edit="": untrained_copy(packed, tmp_path / "mtlpar", edit)
