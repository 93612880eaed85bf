"""Jobs left behind are found, and an answer that does not come is not taken for none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mtlpar.flow.jobs import as_table, cancel, cancel_left, find_jobs, snakemakes, unlock, unseen

RUN = "mtlpar_6f1de0a2-9a53-4c1b-8b8e-0123456789ab"


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all there is on PATH, besides the system's shell."""
    folder = tmp_path / "clients"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    log = tmp_path / ".snakemake" / "log" / "2025.snakemake.log"
    log.parent.mkdir(parents=True)
    log.write_text("SLURM run ID: mtlpar_6f1de0a2\n")
    return folder


def add_client(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_only_jobs_of_snakemake_in_this_folder_count(clients: Path, tmp_path: Path) -> None:
    lines = [
        f"7|RUNNING|None|1:02|4|{RUN}|{tmp_path}|rule_train_mtl",
        # Another folder; and a job that the user sent by hand from here.
        f"8|RUNNING|None|1:02|4|{RUN}|/elsewhere|rule_train_mtl",
        f"9|PENDING|Priority|0:00|1|interactive|{tmp_path}|",
    ]
    add_client(clients, "squeue", "\n".join(f"echo '{line}'" for line in lines))
    (job,) = find_jobs(tmp_path)
    assert (job.id, job.state, job.nodes, job.what) == ("7", "RUNNING", "4", "rule_train_mtl")
    assert as_table([job]).splitlines()[1].split() == [
        "7",
        "RUNNING",
        "1:02",
        "4",
        "rule_train_mtl",
    ]


def test_a_waiting_job_says_what_for(clients: Path, tmp_path: Path) -> None:
    # This one waits for ever: its time limit is above that of its partition.
    line = f"7|PENDING|PartitionTimeLimit|0:00|1|{RUN}|{tmp_path}|rule_pack"
    add_client(clients, "squeue", f"echo '{line}'")
    (job,) = find_jobs(tmp_path)
    assert job.state == "PENDING (PartitionTimeLimit)"


def test_a_scheduler_that_does_not_answer_is_not_an_empty_queue(
    clients: Path, tmp_path: Path
) -> None:
    # Else a run would be unlocked while its jobs still write.
    add_client(clients, "squeue", "exit 1")
    with pytest.raises(ValueError, match="does not answer"):
        find_jobs(tmp_path)


def test_a_scheduler_that_was_never_used_is_not_asked(clients: Path, tmp_path: Path) -> None:
    # Clients of Slurm without a cluster behind them are on many machines.
    add_client(clients, "squeue", "exit 1")
    add_client(clients, "qstat", "exit 1")
    (tmp_path / ".snakemake" / "log" / "2025.snakemake.log").unlink()
    assert find_jobs(tmp_path) == []


def test_jobs_of_pbs_come_from_the_logs(clients: Path, tmp_path: Path) -> None:
    add_client(clients, "squeue", "exit 0")
    log = tmp_path / ".snakemake" / "log" / "2026.snakemake.log"
    log.write_text(
        "Submitted job 3 with external jobid '7.aurora'.\n"
        "Submitted job 4 with external jobid '8.aurora'.\n"
    )
    state = '[ "$5" = 7.aurora ] && state=R || state=F'
    answer = '{"Jobs": {"%s": {"job_state": "%s", "Job_Name": "mtlpar.train.3"}}}'
    add_client(clients, "qstat", f"""{state}; printf '{answer}' "$5" "$state" """)
    (job,) = find_jobs(tmp_path)
    assert (job.id, job.what, job.state) == ("7.aurora", "mtlpar.train.3", "R")
    add_client(clients, "qdel", f'echo "$1" >> {tmp_path}/deleted')
    cancel([job])
    assert (tmp_path / "deleted").read_text() == "7.aurora\n"


def test_jobs_that_nobody_saw_end_are_those_of_the_last_snakemake_that_sent_any(
    tmp_path: Path,
) -> None:
    logs = tmp_path / ".snakemake" / "log"
    logs.mkdir(parents=True)
    sent = "Job {} has been submitted with SLURM jobid {} (log: x).\n"
    # What an earlier one missed, later ones have built upon.
    (logs / "2026-01-01.snakemake.log").write_text(sent.format(1, 70))
    lines = [sent.format(1, 71), sent.format(2, 72), "Finished jobid: 1 (Rule: train)\n"]
    # A retry: the job before is known to have failed.
    lines += [sent.format(3, 73), sent.format(3, 74)]
    lines.append("Submitted job 4 with external jobid '75.aurora'.\n")
    (logs / "2026-01-02.snakemake.log").write_text("".join(lines))
    # One that only found the lock.
    (logs / "2026-01-03.snakemake.log").write_text("Error: Directory cannot be locked.\n")
    assert unseen(tmp_path) == {"72", "74", "75.aurora"}


def test_what_ctrl_c_left_is_cancelled_and_nothing_else(clients: Path, tmp_path: Path) -> None:
    # 70 was sent by another Snakemake of this folder, 71 is known to have ended, 72 ended unseen.
    running = "\n".join(
        f"echo '{job}|RUNNING|None|1:02|4|{RUN}|{tmp_path}|rule_train_mtl'" for job in (70, 73)
    )
    add_client(clients, "squeue", running)
    add_client(clients, "scancel", f'echo "$@" >> {tmp_path}/cancelled')
    sent = "Job {} has been submitted with SLURM jobid {} (log: x).\n"
    lines = [sent.format(job, 70 + job) for job in (1, 2, 3)]
    log = tmp_path / ".snakemake" / "log" / "2026.snakemake.log"
    log.write_text("".join([*lines, "Finished jobid: 1 (Rule: train)\n"]))
    # A run that failed, but was not interrupted, waits for its jobs or leaves them to be adopted.
    assert cancel_left(tmp_path, [log]) == []
    with log.open("a") as stream:
        stream.write("Terminating processes on user request, this might take some time.\n")
    assert [job.id for job in cancel_left(tmp_path, [log])] == ["73"]
    assert (tmp_path / "cancelled").read_text() == "73\n"


def test_a_lock_goes_only_when_nothing_is_left(clients: Path, tmp_path: Path) -> None:
    lock = tmp_path / ".snakemake" / "locks" / "0.input.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    add_client(clients, "squeue", f"echo '7|RUNNING|None|1:02|4|{RUN}|{tmp_path}|rule_train'")
    with pytest.raises(ValueError, match=r"left: 1 job \(7\)"):
        unlock(tmp_path)
    assert lock.exists()
    add_client(clients, "squeue", "exit 0")
    assert unlock(tmp_path)
    assert not lock.exists()
    # Not said to be unlocked once more.
    assert not unlock(tmp_path)


def test_a_snakemake_that_is_still_at_work_keeps_its_lock(clients: Path, tmp_path: Path) -> None:
    script = tmp_path / "snakemake"
    script.write_text("import sys; print('at work', flush=True); sys.stdin.read()")
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, script], cwd=tmp_path, stdin=pipe, stdout=pipe)
    try:
        # The system shows the command a moment after the process is there.
        assert process.stdout is not None
        assert process.stdout.readline()
        with pytest.raises(ValueError, match=f"process {process.pid}"):
            unlock(tmp_path)
    finally:
        process.communicate()
    assert snakemakes(tmp_path) == []
