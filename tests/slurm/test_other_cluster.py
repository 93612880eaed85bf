"""The workflow on a cluster that the profiles were not written for: small nodes, no GPUs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkout import edit_profile, run_mtlpar, run_snakemake
from slurm import cluster
from slurm.runs import (
    FRONTIER,
    SLURM,
    Environment,
    ask,
    assert_nothing_left,
    assert_whole,
    fresh_copy,
    metrics,
    states,
    with_clients_of,
)

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

# What a user of this cluster edits, by docs/machines.md: partitions, cores, memory, times, no GPUs.
EDITS: dict[str, Any] = {
    "default-resources.slurm_partition": "quick",
    "default-resources.cpus_per_task": 4,
    "default-resources.mem_mb": 4000,
    "default-resources.runtime": "min(10, 5 * attempt)",
    "set-resources.extract": None,
    "set-resources.extract_share": None,
    "set-resources.doctor.slurm_partition": "long",
    "set-resources.doctor.gres": None,
    "set-resources.train.slurm_partition": "long",
    "set-resources.train.gres": None,
    "set-resources.train.runtime": "min(120, 30 * attempt)",
    "set-resources.evaluate.slurm_partition": "long",
    "set-resources.evaluate.gres": None,
}


@pytest.fixture(scope="module")
def other_site(site: Environment) -> Iterator[Environment]:
    """Another Slurm, and the stand-ins of the first one."""
    with (
        tempfile.TemporaryDirectory(prefix="mtlpar-slurm-") as folder,
        cluster.running(Path(folder), cluster.SMALL_AND_SHORT) as environment,
    ):
        yield with_clients_of(environment, site)


@pytest.mark.parametrize("profile", [SLURM, FRONTIER], ids=["slurm", "frontier"])
def test_the_sample_dag_runs_on_small_nodes_without_gpus(
    packed: Path, tmp_path: Path, other_site: Environment, profile: tuple[str, str]
) -> None:
    checkout = fresh_copy(packed, tmp_path / "mtlpar")
    name = Path(profile[1]).name
    edit_profile(checkout, name, EDITS)
    if name == "frontier":
        # Its network does not exist here.
        changes = {"slurm_extra": None}
        edit_profile(checkout, name, {f"set-resources.doctor.{k}": v for k, v in changes.items()})
        edit_profile(checkout, name, {"set-resources.train.slurm_extra": "--signal=USR1@180"})
    status, output = run_snakemake(checkout, *profile, environment=other_site)
    assert status == 0, output[-5000:]
    assert_whole(checkout)
    assert set(states(other_site, checkout)) == {"COMPLETED"}
    assert metrics(checkout) == metrics(packed)
    assert_nothing_left(other_site, checkout)


def test_a_job_that_its_partition_never_starts_is_seen_to_wait(
    packed: Path, tmp_path: Path, other_site: Environment
) -> None:
    checkout = fresh_copy(packed, tmp_path / "mtlpar")
    # Slurm takes jobs that are longer than their partition allows, and never starts them.
    sbatch = ["sbatch", "--parsable", "-A", cluster.ACCOUNT, "-p", "quick", "-t", "30"]
    name = "--job-name=mtlpar_00000000-0000-0000-0000-000000000000"
    job = ask(other_site, *sbatch, name, f"--chdir={checkout}", "--wrap", "true").strip()
    (checkout / ".snakemake/log").mkdir(parents=True)
    (checkout / ".snakemake/log/1.snakemake.log").write_text("SLURM run ID: mtlpar_0")
    listed = run_mtlpar(checkout, ["jobs"], other_site)
    # PartitionConfig until the scheduler has looked at it, PartitionTimeLimit from then on.
    assert re.search(rf"{job}  PENDING \(Partition\w+\)", listed.stdout), listed.stdout
    assert run_mtlpar(checkout, ["jobs", "--cancel"], other_site).returncode == 0
    assert_nothing_left(other_site, checkout)
