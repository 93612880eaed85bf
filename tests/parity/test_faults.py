"""What goes wrong on one rank ends all of them, and they say which rank it was.

The collective timeout is five minutes and these tests wait for one: a run that only ends by it
would fail them.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from torch.distributed import HashStore
from training import command_line, epoch_lines, losses, run_alone, run_ranks
from warm import warm_python

from mtlpar.core.files import read_json, write_json
from mtlpar.core.paths import Workspace
from mtlpar.parallel import failures
from mtlpar.parallel.failures import FailureDetector

OWNERS = {
    3: {0: "ani1x", 1: "alexandria, transition1x", 2: "qm7x, mptrj"},
    5: {0: "ani1x", 1: "qm7x", 2: "mptrj", 3: "alexandria", 4: "transition1x"},
}


def test_a_rank_that_died_is_missed_whether_or_not_anybody_noticed() -> None:
    ranks = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    places = [(socket.gethostname(), rank.pid) for rank in ranks]
    notices, looks_later, sees_nobody = (
        FailureDetector(places),
        FailureDetector(places),
        FailureDetector([("elsewhere", 1)]),
    )
    assert notices.dead(patience_s=0) == ()
    ranks[1].kill()
    # A zombie at first, and after `wait` not even that.
    assert notices.dead(patience_s=30) == (1,)
    ranks[1].wait()
    assert looks_later.dead() == (1,)
    # Rank 2 ends because of rank 1, as survivors do: it is not to blame.
    ranks[2].kill()
    ranks[2].wait()
    assert notices.dead() == looks_later.dead() == (1,)
    assert sees_nobody.dead(patience_s=0) == ()
    ranks[0].kill()
    ranks[0].wait()


def test_ranks_of_other_nodes_are_told_who_died() -> None:
    here, other = subprocess.Popen(["sleep", "60"]), subprocess.Popen(["sleep", "60"])
    store = HashStore()
    on_this_node = FailureDetector([(socket.gethostname(), here.pid), ("other", other.pid)])
    on_the_other = FailureDetector([("this", here.pid), (socket.gethostname(), other.pid)])
    for detector in (on_this_node, on_the_other):
        detector.connect(store)
        assert detector.dead(patience_s=0) == ()
    here.kill()
    here.wait()
    assert on_this_node.dead() == (0,)
    # Its own eyes see rank 1 die later, and by then it knows better.
    other.kill()
    other.wait()
    assert on_the_other.dead(patience_s=0) == (0,)


def test_who_ends_all_waits_for_the_report_of_a_slow_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy node a rank may notice seconds later: its report would be lost with it.
    for name, seconds in {"_REPORT_GRACE_S": 0.0, "_PASS_ON_S": 0.0}.items():
        monkeypatch.setattr(failures, name, seconds)
    store, lost = HashStore(), subprocess.Popen(["sleep", "60"])
    places = [("other", 1), ("other", 2), (socket.gethostname(), lost.pid)]
    fast, slow = FailureDetector(places, rank=0), FailureDetector(places, rank=1)
    for detector in (fast, slow):
        detector.connect(store)
    lost.kill()
    lost.wait()
    assert "rank 2 died" in str(fast.report_dead())
    ending = threading.Thread(target=fast.let_others_report)
    ending.start()
    ending.join(0.5)
    assert ending.is_alive()
    assert "rank 2 died" in str(slow.report_dead())
    slow.let_others_report()
    ending.join()


def test_processes_that_were_never_seen_are_not_missed() -> None:
    # As in containers that have numbers of processes of their own.
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert FailureDetector([(socket.gethostname(), ended.pid)]).dead(patience_s=0) == ()


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("launcher", "ranks", "victim", "nodes"),
    [
        # Of five ranks two are no neighbours of the victim: no connection of theirs breaks.
        ("mpiexec", 5, 2, 1),
        ("mpiexec", 3, 2, 2),
        pytest.param("torchrun", 3, 1, 1, marks=pytest.mark.slow),
        pytest.param("mpiexec", 3, 0, 1, marks=pytest.mark.slow),
    ],
)
def test_all_others_name_a_killed_rank_its_branches_and_the_step(
    launcher: str,
    ranks: int,
    victim: int,
    nodes: int,
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
) -> None:
    if nodes > 1 and subprocess.run(["unshare", "--uts", "true"], check=False).returncode:
        pytest.skip("this machine lets nobody give processes host names of their own")
    endless = {"epochs": 10_000, "patience_epochs": 10_000}
    line = command_line(copy_of(five_sources), ranks, python=warm_python(), **endless)
    start = line.index("--") + 1
    line = [*line[: start - 1], "--launcher", launcher, "--", *_on_nodes(nodes), *line[start:]]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for text in process.stderr:
        if "epoch 2/" in text:
            break
    everyone = [_rank(process.pid, rank) for rank in range(ranks)]
    everyone[victim].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    # All have ended, although they shared memory with the dead.
    psutil.wait_procs(everyone, timeout=10)
    assert not any(rank.is_running() for rank in everyone)
    assert f"rank {victim} was ended by signal 9 (KILL)" in errors
    for rank in set(range(ranks)) - {victim}:
        said = re.findall(
            rf"rank {rank} of {ranks}: after step \d+, rank {victim} "
            rf"\(branch {OWNERS[ranks][victim]}\) died; start again from the last checkpoint",
            errors,
        )
        assert len(said) == 1, errors


def _on_nodes(nodes: int) -> list[str]:
    """Words before a command that let ranks believe that they take turns on so many nodes."""
    if nodes == 1:
        return []
    # Gloo looks up the host name, which nobody else knows.
    name = f"hostname node$((PMI_RANK % {nodes})) && export GLOO_SOCKET_IFNAME=lo"
    return ["unshare", "--uts", "sh", "-c", f'{name} && exec "$@"', "sh"]


def _rank(launcher: int, rank: int) -> psutil.Process:
    """Process of a rank below a launcher."""
    (process,) = (
        child
        for child in psutil.Process(launcher).children(recursive=True)
        if "python" in child.name()
        and "train" in child.cmdline()
        and str(rank) in (child.environ().get("PMI_RANK"), child.environ().get("RANK"))
    )
    return process


@pytest.mark.mpi
def test_a_rank_that_hangs_is_named_after_the_time_that_the_settings_say(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    # In shards, whose groups are not the world: all ranks wait in them, and nobody in the world.
    options = {"epochs": 10_000, "encoder_shards": 2, "collective_timeout_s": 5.0}
    line = command_line(copy_of(five_sources), 2, python=warm_python(), **options)
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for text in process.stderr:
        if "epoch 1/" in text:
            # Its fork stops, whoever is in that group of processes.
            _rank(process.pid, 1).send_signal(signal.SIGTSTP)
            break
    # Besides, the report takes some seconds.
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert re.search(
        r"rank 0 of 2: after step \d+, rank 1 \(branch .*\) hangs, or waits for something else",
        errors,
    ), errors


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("change", "told"),
    [
        # Not part of what is trained, but ranks that disagree would wait for each other for ever.
        ("train.layout=mtl-base", "rank 1 has settings with the digest"),
        ("paths.results={other}", r"rank 1 has data of qm7x \(branch qm7x\) with the digest"),
    ],
)
def test_a_rank_that_was_given_something_else_is_named(
    change: str,
    told: str,
    five_sources: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    tmp_path: Path,
) -> None:
    workspace = copy_of(five_sources)
    other = tmp_path / "other"
    shutil.copytree(five_sources.results / "packed", other / "packed")
    manifest = Workspace(raw=workspace.raw, results=other).pack_manifest("qm7x", "train")
    write_json(manifest, {**read_json(manifest), "training_digest": "0" * 64})
    line = command_line(workspace, 2, python=warm_python())
    start = line.index("--") + 1
    extra = f"--set {change.format(other=other)}"
    script = tmp_path / "rank.sh"
    script.write_text(
        f'extra=""; [ "$PMI_RANK" = 1 ] && extra="{extra}"\n'
        f"exec {shlex.join(line[start:])} $extra\n"
    )
    done = subprocess.run(
        [*line[:start], "sh", str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert re.search(told, done.stderr), done.stderr
    # Both ranks know; on thousands one line is enough.
    assert len(re.findall("error:", done.stderr)) == 1
    assert "give all ranks the same config and the same packs" in done.stderr


@pytest.mark.slow
@pytest.mark.mpi
def test_a_training_survives_two_kills_and_two_other_layouts(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(five_sources)
    run_alone(workspace)
    straight = [(line["step"], line["val"]) for line in epoch_lines(workspace)]
    expected = losses(workspace)
    for path in (workspace.model("mtl"), workspace.training_metrics("mtl")):
        path.unlink()
    # A branch per rank, then all branches on both of two ranks, then uneven groups of branches.
    _kill_a_rank(command_line(workspace, 5), "epoch 2/", victim=3)
    _kill_a_rank(command_line(workspace, 2, layout="mtl-base"), "epoch 4/", victim=1)
    done = run_ranks(workspace, 3)
    assert done.returncode == 0, done.stderr
    # The last one, where the kill came late.
    assert re.search(r"resumed after epoch [345], step", done.stderr)
    np.testing.assert_allclose(losses(workspace), expected, rtol=1e-10)
    for (step, errors), (step_of_straight, errors_of_straight) in zip(
        [(line["step"], line["val"]) for line in epoch_lines(workspace)], straight, strict=True
    ):
        assert step == step_of_straight
        for source, values in errors.items():
            assert values == pytest.approx(errors_of_straight[source], rel=1e-10)


def _kill_a_rank(line: list[str], when: str, *, victim: int) -> None:
    """Run until a line is logged, kill one rank, and wait for the launcher to end the others."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for text in process.stderr:
        if when in text:
            _rank(process.pid, victim).kill()
            break
    process.communicate(timeout=60)
    assert process.returncode != 0
