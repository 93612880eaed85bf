"""Launch lines for each machine, and refusal of worlds of the wrong size."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import REPOSITORY
from warm import warm_python

from mtlpar.parallel.launch import Geometry, Launcher, launch_command, launched_as

FRONTIER = Geometry(nodes=4, ranks_per_node=8, cpus_per_rank=7, gpus_per_node=8)


def test_srun_gets_the_whole_geometry_because_the_environment_has_none() -> None:
    line = launch_command(FRONTIER, ["mtlpar"], launcher="srun", environment={})
    assert line == [
        "srun",
        "--nodes=4",
        "--ntasks=32",
        "--ntasks-per-node=8",
        "--cpus-per-task=7",
        "--kill-on-bad-exit=1",
        "--gpus-per-task=1",
        "--gpu-bind=closest",
        "mtlpar",
    ]


def test_srun_without_binding_leaves_all_gpus_of_the_node_visible() -> None:
    line = launch_command(
        FRONTIER, ["mtlpar"], launcher="srun", environment={"MTLPAR_GPU_BIND": "none"}
    )
    assert "--gpus-per-node=8" in line
    assert "--gpu-bind=none" in line


def test_pals_binds_by_depth_or_by_the_list_of_the_site() -> None:
    aurora = Geometry(nodes=2, ranks_per_node=12, cpus_per_rank=8, gpus_per_node=12)
    start = ["mpiexec", "-n", "24", "--ppn", "12", "--envall"]
    line = launch_command(aurora, ["x"], launcher="pals", environment={})
    assert line == [*start, "--depth=8", "--cpu-bind=depth", "x"]
    listed = {"MTLPAR_CPU_BIND": "list:1-8:9-16"}
    line = launch_command(aurora, ["x"], launcher="pals", environment=listed)
    assert line == [*start, "--cpu-bind=list:1-8:9-16", "x"]


def test_one_rank_on_a_laptop_needs_no_launcher() -> None:
    assert launch_command(Geometry(), ["x"], environment={}) == ["x"]


def test_several_ranks_without_a_launcher_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mtlpar\[mpi\]"):
        launch_command(Geometry(ranks_per_node=2), ["x"], launcher="none", environment={})


def test_ranks_start_in_an_environment_that_nobody_activated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # `.venv/bin/python -m mtlpar launch` without its folder on PATH, as `make test` runs it; and
    # another MPI on PATH, whose mpiexec would start every rank as a world of one.
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    for folder in (environment, elsewhere):
        folder.mkdir()
        (folder / "mpiexec").touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(environment / "python"))
    for path in ("", str(elsewhere)):
        monkeypatch.setenv("PATH", path)
        line = launch_command(Geometry(ranks_per_node=2), ["x"], environment={})
        assert line[:3] == [str(environment / "mpiexec"), "-n", "2"]
    (environment / "mpiexec").unlink()
    assert launch_command(Geometry(ranks_per_node=2), ["x"], environment={})[0] == str(
        elsewhere / "mpiexec"
    )


def one_rank(line: list[str], command: str) -> list[str]:
    """What stands between the launcher and a rank, around a shell command."""
    return [*line[line.index("sh") : -1], "sh", "-c", command]


def test_a_crashed_rank_is_named_and_hidden_from_the_launcher_while_others_speak() -> None:
    line = launch_command(Geometry(ranks_per_node=2), ["x"], launcher="mpiexec", environment={})
    with subprocess.Popen(
        one_rank(line, "kill -SEGV $$"),
        env={**os.environ, "PMI_RANK": "7"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as ended:
        assert ended.stderr is not None
        assert any("rank 7 was ended by signal 11 (SEGV)" in text for text in ended.stderr)
        assert ended.poll() is None
        os.killpg(ended.pid, signal.SIGKILL)


def test_a_crash_is_hidden_no_longer_than_there_are_others_to_speak(tmp_path: Path) -> None:
    # Otherwise the launcher, and whoever waits for it, learns of it twenty seconds later.
    line = launch_command(Geometry(ranks_per_node=2), ["x"], launcher="mpiexec", environment={})
    ended = tmp_path / "ended"
    variables = {"MTLPAR_ENDED": str(ended), "MTLPAR_EXPECTED_WORLD_SIZE": "2"}
    for rank, command, status in (("0", "exit 0", 0), ("1", "kill -KILL $$", 137)):
        environment = {**os.environ, **variables, "PMI_RANK": rank}
        done = subprocess.run(one_rank(line, command), env=environment, timeout=10, check=False)
        assert done.returncode == status
    assert ended.read_text() == "rank 0 ended with status 0\nrank 1 ended with status 137\n"


@pytest.mark.parametrize("status", [0, 1, 75, 130])
def test_a_rank_that_ends_by_itself_ends_at_once_with_its_own_status(status: int) -> None:
    # 75 asks Snakemake for a retry that resumes; 130 is Ctrl-C, after which nobody wants to wait.
    line = launch_command(Geometry(ranks_per_node=2), ["x"], launcher="torchrun", environment={})
    command = one_rank(line, f"exit {status}")
    assert subprocess.run(command, timeout=10, check=False).returncode == status


def test_a_signal_is_the_business_of_the_rank_alone() -> None:
    # Launchers send it to both. The rank takes its time to save a checkpoint.
    line = launch_command(Geometry(ranks_per_node=2), ["x"], launcher="mpiexec", environment={})
    rank = "trap 'sleep 0.5; exit 75' TERM; echo started; while :; do sleep 0.1; done"
    with subprocess.Popen(
        one_rank(line, rank), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as stopped:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "started\n"
        os.killpg(stopped.pid, signal.SIGTERM)
        assert stopped.wait(timeout=10) == 75


@pytest.mark.parametrize("name", ["nodes", "ranks_per_node", "cpus_per_rank"])
def test_a_geometry_of_nothing_is_refused(name: str) -> None:
    # No ranks would be one process without a launcher, and no threads all cores for each rank.
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} 0: expected at least one"):
        Geometry(**{name: 0})


def test_torchrun_starts_ranks_without_mpi() -> None:
    line = launch_command(Geometry(ranks_per_node=4), ["x"], launcher="torchrun", environment={})
    assert line[1:4] == ["--standalone", "--no-python", "--nproc-per-node=4"]
    assert line[-1] == "x"


@pytest.mark.parametrize("launcher", ["mpiexec", "torchrun"])
def test_several_nodes_need_a_scheduler(launcher: Launcher) -> None:
    # All ranks would start on this one machine and nobody would notice.
    with pytest.raises(ValueError, match="this machine only"):
        launch_command(Geometry(nodes=2), ["x"], launcher=launcher, environment={})


def test_srun_is_told_how_to_meet_the_mpi_of_the_wheel() -> None:
    variables = {"MTLPAR_SRUN_MPI": "pmi2"}
    line = launch_command(Geometry(), ["x"], launcher="srun", environment=variables)
    assert "--mpi=pmi2" in line


def test_srun_gets_no_geometry_but_that_of_the_rule(tmp_path: Path) -> None:
    # As Slurm does: a job that asked for `tasks` next to GPUs could start no rank at all.
    srun = tmp_path / "srun"
    srun.write_text(
        '#!/bin/sh\n[ -z "$SLURM_NTASKS_PER_GPU$SLURM_TRES_PER_TASK" ] && echo run "$@" && exit\n'
        "echo srun: fatal: --gpus-per-task is mutually exclusive >&2; exit 1\n"
    )
    srun.chmod(0o755)
    line = ["launch", "--ppn", "8", "--gpus-per-node", "8", "--launcher", "srun", "--", "true"]
    done = subprocess.run(
        [sys.executable, "-m", "mtlpar", *line],
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_NTASKS_PER_GPU": "1",
            "SLURM_TRES_PER_TASK": "gres:gpu:1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.startswith("run --nodes=1 --ntasks=8"), done.stderr
    assert done.stderr.count("use tasks_per_node and gres") == 2


MEET = """
from mtlpar.parallel.ranks import distributed_context
import os, torch
def say(*words):
    # One write: what two ranks print at once must not be mixed within a line.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
with distributed_context(first=lambda ranks: say("first", ranks)) as context:
    total = torch.tensor([float(context.rank)])
    torch.distributed.all_reduce(total)
    say("rank", context.rank, context.world_size, total.item())
"""


def _launch(
    ranks: int, code: str, *, launcher: str = "mpiexec", python: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Let ranks run some code, by default forks of what has imported everything before."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "mtlpar", "launch", "--ppn", str(ranks)),
            *("--launcher", launcher, "--", *(python or warm_python()), "-c", code),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("launcher", "as_users"),
    [
        ("mpiexec", True),
        ("torchrun", False),
        pytest.param("torchrun", True, marks=pytest.mark.slow),
    ],
)
def test_ranks_meet(launcher: str, as_users: bool) -> None:
    # Ranks that start as those of users do import torch, which takes them longer than all else.
    done = _launch(2, MEET, launcher=launcher, python=[sys.executable] if as_users else ())
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["first 2", "rank 0 2 1.0", "rank 1 2 1.0"]


@pytest.mark.mpi
@pytest.mark.parametrize("announced", ["MTLPAR_EXPECTED_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_ranks_that_start_alone_are_refused(announced: str) -> None:
    # What srun does with an MPI it does not know: every process is rank 0 of 1, without a word.
    done = subprocess.run(
        [*warm_python(), "-c", MEET],
        env={**os.environ, announced: "16", "SLURM_PROCID": "3"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "MPI finds 1 rank, but 16 were launched: MPICH" in done.stderr
    assert "MTLPAR_SRUN_MPI" in done.stderr


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("end", "told"),
    [
        # A broken environment on one node, and the kernel out of memory.
        ("import no_such_package", "rank 1 ended with status 1 before all ranks had met"),
        ("os.kill(os.getpid(), 9)", "rank 1 ended with status 137 before all ranks had met"),
    ],
)
def test_a_rank_that_dies_before_mpi_has_started_ends_the_others(end: str, told: str) -> None:
    # No launcher notices: they would wait in MPI_Init until the ten minutes of a collective.
    dies = f"import os\nif os.environ['PMI_RANK'] == '1':\n    {end}\n"
    done = _launch(3, dies + MEET)
    assert done.returncode != 0
    assert done.stderr.count(told) == 2
    assert "first" not in done.stdout


@pytest.mark.mpi
def test_a_rank_that_waits_for_another_in_vain_is_ended_with_advice() -> None:
    # In MPI_Init, where no signal and no thread of Python's would end it.
    # Rank 1 comes when rank 0 has given up, so that neither waits for a launcher that looks on.
    late = (
        "import os, time\n"
        "while os.environ['PMI_RANK'] == '1' and not open(os.environ['MTLPAR_ENDED']).read():\n"
        "    time.sleep(0.1)\n"
    )
    meet = MEET.replace("distributed_context(", "distributed_context(timeout_s=2, ")
    done = _launch(2, late + meet)
    assert done.returncode != 0
    assert "MPI did not start within 2 s" in done.stderr
    assert "rank 0" not in done.stdout


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("first", "inside", "told"),
    [
        # The first rank waits for a lease, perhaps for hours; nobody else would look after it.
        ("while True: time.sleep(1)", "", "rank 0 of 2: rank 1 died"),
        ("pass", "if context.rank == 1: kill()", "rank 0 of 2: rank 1 died"),
    ],
    ids=["before they begin", "as they end"],
)
def test_a_rank_that_dies_where_others_only_wait_is_named(
    first: str, inside: str, told: str
) -> None:
    code = f"""
import os, threading, time
from mtlpar.parallel import ranks
def kill():
    os.kill(os.getpid(), 9)
def first(size):
    {first}
if os.environ["PMI_RANK"] == "1" and not {bool(inside)}:
    met = ranks._watched
    ranks._watched = lambda *a: (threading.Timer(1, kill).start(), met(*a))[1]
with ranks.distributed_context(first=first) as context:
    {inside or "pass"}
"""
    done = _launch(2, code)
    assert done.returncode != 0
    assert told in done.stderr, done.stderr


@pytest.mark.mpi
def test_no_rank_goes_on_before_the_last_one_is_connected(tmp_path: Path) -> None:
    # One with nothing to do would be gone while another still connects to it, which Gloo takes for
    # a crash: on a busy machine a refusal by all ranks ended in a traceback.
    code = f"""
import time
from pathlib import Path
import torch.distributed as dist
from mtlpar.parallel import ranks
connected, connect = Path({str(tmp_path / "connected")!r}), dist.init_process_group
def late(*arguments, rank, **options):
    connect(*arguments, rank=rank, **options)
    if rank == 1:
        time.sleep(0.5)
        connected.touch()
dist.init_process_group = late
with ranks.distributed_context() as context:
    print("met" if connected.exists() else "alone")
"""
    done = _launch(2, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["met", "met"]


@pytest.mark.mpi
def test_what_the_first_rank_finds_wrong_is_one_line_of_all() -> None:
    # As inputs that were made with other settings: no fault of the code, and no traceback.
    code = """
import sys
from mtlpar.parallel.agree import AgreedError
from mtlpar.parallel.ranks import distributed_context
def first(size):
    raise ValueError(f"wrong for {size} ranks")
try:
    with distributed_context(first=first):
        print("never here")
except AgreedError as error:
    if error.reports_here:
        print(error)
    sys.exit(1)
"""
    done = _launch(2, code)
    assert done.returncode == 1
    assert done.stdout == "wrong for 2 ranks\n"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        # A job's own shell, or a rank that something else started.
        ({"SLURM_PROCID": "3"}, (0, 1)),
        ({"MTLPAR_EXPECTED_WORLD_SIZE": "1", "SLURM_PROCID": "3"}, (0, 1)),
        ({"MTLPAR_EXPECTED_WORLD_SIZE": "4", "SLURM_PROCID": "3"}, (3, 4)),
        ({"MTLPAR_EXPECTED_WORLD_SIZE": "4", "SLURM_PROCID": "0", "PMI_RANK": "2"}, (2, 4)),
        ({"MTLPAR_EXPECTED_WORLD_SIZE": "2", "RANK": "1"}, (1, 2)),
    ],
)
def test_a_process_knows_which_rank_of_a_launch_it_is(
    variables: dict[str, str], expected: tuple[int, int]
) -> None:
    assert launched_as(variables) == expected


@pytest.mark.mpi
def test_a_launched_command_prints_once() -> None:
    done = _launch_command("doctor")
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    assert lines
    assert sorted(set(lines)) == sorted(lines)


@pytest.mark.mpi
def test_ranks_of_a_command_of_one_process_are_refused() -> None:
    # As by `launch` before it starts any, where it sees which command that is.
    done = _launch_command("plan data --cores 2")
    assert done.returncode == 1
    assert "mtlpar plan data runs in one process, and was launched on 2 ranks" in done.stderr
    assert not done.stdout


def _launch_command(command: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mtlpar", "launch", "--ranks-per-node", "2", "--",
            *warm_python(), "-m", "mtlpar", *command.split()]  # fmt: skip
    return subprocess.run(
        line, capture_output=True, text=True, timeout=120, check=False, cwd=REPOSITORY
    )
