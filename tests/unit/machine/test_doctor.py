"""The doctor finds each known fault, and finds none on a machine without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from warm import warm_python

from mtlpar.machine import storage
from mtlpar.machine.finding import Finding
from mtlpar.machine.ranks import Rank, check_cores, check_devices, check_ranks
from mtlpar.machine.software import check_environment, check_scheduler
from mtlpar.machine.storage import check_file_system, check_store
from mtlpar.parallel.allocation import Allocation
from mtlpar.parallel.launch import Geometry

FRONTIER = Geometry(nodes=2, ranks_per_node=8, cpus_per_rank=7, gpus_per_node=8)


def ranks(geometry: Geometry = FRONTIER, **changes: object) -> list[Rank]:
    """What the ranks of a machine without faults see: each its own device only."""
    return [
        Rank(
            **{
                "rank": index,
                "mpi_rank": index,
                "host": f"node{index // geometry.ranks_per_node}",
                "cores": geometry.cpus_per_rank,
                "device": "cuda",
                "device_id": f"uuid-{index}",
                "devices": 1,
                **changes,
            }  # type: ignore[arg-type]
        )
        for index in range(geometry.world_size)
    ]


def faults(findings: list[Finding]) -> list[str]:
    """Checks that failed; each says what to do."""
    found = [finding for finding in findings if finding.level == "FAULT"]
    assert all(finding.advice for finding in found)
    return [finding.check for finding in found]


def test_a_machine_without_faults_has_none() -> None:
    whole = ranks()
    assert faults(check_ranks(whole, FRONTIER)) == []
    assert faults(check_devices(whole, FRONTIER)) == []
    assert faults(check_cores(whole, FRONTIER)) == []
    assert faults(check_environment({}, nodes=2, device="cuda")) == []


def test_processes_that_are_all_rank_0_are_a_fault() -> None:
    # srun with an MPI that it does not know: sixteen worlds of one, without a word.
    alone = ranks(Geometry())
    assert faults(check_ranks(alone, FRONTIER)) == ["ranks"]
    (finding,) = (f for f in check_ranks(alone, FRONTIER) if f.level == "FAULT")
    assert "MTLPAR_SRUN_MPI" in finding.advice


def test_ranks_that_share_a_device_are_a_fault() -> None:
    # --gpu-bind without effect: every rank sees eight devices and takes the first.
    assert faults(check_devices(ranks(device_id="uuid-0"), FRONTIER)) == ["binding"]
    # One device per rank under the same index is right: its identity counts.
    assert faults(check_devices(ranks(devices=1), FRONTIER)) == []


def test_torch_without_the_devices_of_the_machine_is_a_fault() -> None:
    blind = ranks(device="cpu", device_id="", devices=0)
    assert faults(check_devices(blind, FRONTIER)) == ["devices"]
    assert faults(check_devices(blind, Geometry())) == []


def test_a_node_without_devices_is_a_fault() -> None:
    mixed = [*ranks()[:8], *ranks(device="cpu", device_id="", devices=0)[8:]]
    assert faults(check_devices(mixed, FRONTIER)) == ["devices"]


def test_a_step_with_one_core_is_a_fault() -> None:
    # Snakemake's job step runs a rule in srun -n1 unless the rule says that it calls srun.
    assert faults(check_cores(ranks(cores=1), FRONTIER)) == ["cores"]


def test_all_ranks_on_the_first_node_are_a_fault() -> None:
    uneven = [*ranks()[:15], Rank(15, 15, "node0", 7, "cuda", "uuid-15", 1)]
    assert faults(check_ranks(uneven, FRONTIER)) == ["ranks per node"]


def test_mpi_and_torch_that_count_differently_are_a_fault() -> None:
    turned = [Rank(r.rank, 15 - r.rank, r.host, 7, "cuda", r.device_id, 1) for r in ranks()]
    assert faults(check_ranks(turned, FRONTIER)) == ["MPI and torch"]


@pytest.mark.parametrize(
    "variables",
    [
        {"FI_MR_CACHE_MONITOR": "memhooks"},
        {"FI_CXI_RDV_PROTO": "alt_read"},
        {"SLURM_NTASKS_PER_GPU": "1"},
    ],
)
def test_settings_that_hurt_are_faults(variables: dict[str, str]) -> None:
    assert faults(check_environment(variables, nodes=2, device="cuda")) == ["environment"]


def test_a_missing_network_plugin_is_noted_where_it_matters(tmp_path: Path) -> None:
    def notes(nodes: int, **variables: str) -> list[str]:
        findings = check_environment(variables, nodes=nodes, device="cuda")
        return [finding.result for finding in findings if finding.level == "note"]

    assert notes(2) == ["no network plugin of NCCL or RCCL"]
    assert notes(1) == []
    (tmp_path / "librccl-net.so").touch()
    assert notes(2, LD_LIBRARY_PATH=f"/nowhere:{tmp_path}") == []


def test_a_slurm_without_accounting_is_noted_and_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a fault it stopped every training there, also where Snakemake asks squeue.
    for name, script in {"sacct": "exit 1", "squeue": "echo 30:00"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    findings = check_scheduler(Allocation("slurm", "7"))
    assert faults(findings) == []
    assert "30 min" in [finding.result for finding in findings]
    # On a login node it is said before the first job.
    for found in (findings, check_scheduler(Allocation())):
        assert {finding.check: finding.level for finding in found}["sacct"] == "note"


def test_a_store_that_loses_data_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert faults(check_store(tmp_path)) == []
    read = storage.BpReader.read

    def lose(self: storage.BpReader) -> object:
        batch = read(self)
        return batch.take(np.arange(len(batch) // 4))

    monkeypatch.setattr(storage.BpReader, "read", lose)
    assert faults(check_store(tmp_path)) == ["store"]
    # Nothing is left behind.
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_whose_clock_is_off_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert faults(check_file_system(tmp_path)) == []
    now = storage.time.time
    monkeypatch.setattr(storage.time, "time", lambda: now() - 60)
    assert faults(check_file_system(tmp_path)) == ["clock"]


@pytest.mark.mpi
def test_the_command_looks_at_all_ranks_and_fails_on_a_fault(tmp_path: Path) -> None:
    mtlpar = [*warm_python(), "-m", "mtlpar"]
    command = ["doctor", "--set", f"paths.results={tmp_path}", "--out", str(tmp_path / "out.json")]
    launch = ["launch", "--ranks-per-node", "2"]

    def run(*extra: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "mtlpar", *launch, *extra, "--", *mtlpar, *command]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 on 1 node" in done.stdout
    assert "all-reduce" in done.stdout
    assert (tmp_path / "out.json").exists()
    (tmp_path / "out.json").unlink()
    # There are no thousand cores and no eight GPUs here.
    done = run("--cpus-per-rank", "1000")
    assert done.returncode != 0
    assert "FAULT  cores" in done.stdout
    assert not (tmp_path / "out.json").exists()
