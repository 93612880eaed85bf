"""The workflow on a Slurm without accounting, whose nodes are of another shape again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkout import edit_profile, run_snakemake, warm_jobs
from slurm import cluster
from slurm.runs import (
    SLURM,
    Environment,
    assert_nothing_left,
    assert_whole,
    fresh_copy,
    metrics,
    small_checkout,
    states,
    warm_site,
    with_clients_of,
)

pytestmark = pytest.mark.workflow

# What docs/machines.md says to edit on such a cluster. `all` alone is a function of Python, which
# Snakemake finds first.
EDITS: dict[str, Any] = {
    "slurm-status-command": "squeue",
    "default-resources.slurm_account": None,
    "default-resources.slurm_partition": "'all'",
    "default-resources.cpus_per_task": 4,
    "default-resources.mem_mb": 8000,
    "set-resources.extract": None,
    "set-resources.extract_share": None,
    "set-resources.doctor.slurm_partition": "'all'",
    "set-resources.doctor.gres": "gpu:2",
    "set-resources.train.slurm_partition": "'all'",
    "set-resources.train.gres": "gpu:2",
    "set-resources.evaluate.slurm_partition": "'all'",
}


@pytest.fixture(scope="module")
def bare_site(stand_ins: Environment) -> Iterator[Environment]:
    """A Slurm that knows no accounts."""
    if reason := cluster.missing():
        pytest.skip(f"no Slurm: {reason}")
    with (
        tempfile.TemporaryDirectory(prefix="mtlpar-slurm-") as folder,
        cluster.running(Path(folder), cluster.WITHOUT_ACCOUNTING) as environment,
    ):
        yield with_clients_of(environment, stand_ins)


def test_the_doctor_of_a_slurm_without_accounting_finds_no_fault(
    tmp_path: Path, bare_site: Environment
) -> None:
    # It stopped every training where sacct does not answer.
    checkout = small_checkout(tmp_path / "mtlpar")
    edit_profile(checkout, "slurm", EDITS)
    warm = warm_site(bare_site)
    with warm_jobs(checkout):
        status, output = run_snakemake(checkout, *SLURM, "results/doctor.json", environment=warm)
    assert status == 0, output[-5000:]
    assert states(bare_site, checkout) == ["COMPLETED"]
    findings = json.loads((checkout / "results/doctor.json").read_text())
    assert [f["level"] for f in findings if f["check"] == "sacct"] == ["note"]


def test_snakemake_does_not_start_jobs_that_it_would_not_see_end(
    tmp_path: Path, bare_site: Environment
) -> None:
    checkout = small_checkout(tmp_path / "mtlpar")
    edit_profile(checkout, "slurm", EDITS | {"slurm-status-command": "sacct"})
    # It would wait for ever for the first job.
    warm = warm_site(bare_site)
    status, output = run_snakemake(checkout, *SLURM, "table1", environment=warm, timeout_s=120)
    assert status == 1
    assert "slurm-status-command: squeue" in output
    assert "Traceback" not in output
    assert states(bare_site, checkout) == []


@pytest.mark.slow
def test_a_model_is_trained_without_accounting(
    branch_off: Callable[..., Path], bare_site: Environment, undisturbed: Path
) -> None:
    checkout = branch_off()
    edit_profile(checkout, "slurm", EDITS)
    (checkout / "results/doctor.json").unlink()
    status, output = run_snakemake(checkout, *SLURM, "table1", environment=bare_site)
    assert status == 0, output[-5000:]
    assert_whole(checkout)
    assert states(bare_site, checkout) == ["COMPLETED"] * 3
    assert metrics(checkout) == metrics(undisturbed)
    assert_nothing_left(bare_site, checkout)


@pytest.mark.slow
def test_the_sample_dag_runs_without_accounting(
    packed: Path, tmp_path: Path, bare_site: Environment
) -> None:
    checkout = fresh_copy(packed, tmp_path / "mtlpar")
    edit_profile(checkout, "slurm", EDITS)
    status, output = run_snakemake(checkout, *SLURM, environment=bare_site)
    assert status == 0, output[-5000:]
    assert_whole(checkout)
    assert set(states(bare_site, checkout)) == {"COMPLETED"}
    assert metrics(checkout) == metrics(packed)
    assert_nothing_left(bare_site, checkout)
