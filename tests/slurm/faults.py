#!/usr/bin/env python3
"""What goes wrong on clusters, at random moments drawn from a seed.

`endure` runs the workflow of a checkout through a profile, kills Snakemake, ranks and what is
between them, sets nodes down meanwhile, and starts Snakemake again until it ends well. By hand,
with a cluster of `cluster.py` on PATH::

    python tests/slurm/faults.py CHECKOUT --seed 3 --faults 6
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from checkout import run_mtlpar, start_snakemake
from slurm.runs import ask, processes

KINDS = ("snakemake", "rank", "job's snakemake", "node")
# Starts after the last fault; each failure of a job has used up one of its retries.
_RESTARTS = 5


def endure(
    checkout: Path,
    *arguments: str,
    seed: int,
    faults: int,
    environment: Mapping[str, str] | None = None,
    between_s: tuple[float, float] = (5, 45),
) -> list[str]:
    """Run the workflow through faults until it ends well; returns what happened.

    Args:
        checkout: Folder to run in.
        arguments: Arguments of Snakemake.
        seed: What the moments and kinds of faults are drawn from.
        faults: How many there are; fewer if the workflow ends before.
        environment: Variables for all commands.
        between_s: Shortest and longest time from one fault to the next.

    Raises:
        AssertionError: If it does not end well.
    """
    chance = random.Random(seed)
    story: list[str] = []
    output = (checkout / "faults.log").open("a")

    def start() -> subprocess.Popen[str]:
        return start_snakemake(checkout, *arguments, environment=environment, output=output)

    process = start()
    try:
        for _ in range(faults):
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=chance.uniform(*between_s))
            if process.poll() == 0:
                return story
            # One that has given up is started again like one that was killed.
            kind = "snakemake" if process.poll() is not None else chance.choice(KINDS)
            if kind == "snakemake":
                choice = chance.choice(("--cancel", "--adopt", "nothing"))
                _kill(process)
                # A start by itself waits for the jobs, and keeps what they made.
                kept = "" if choice == "nothing" else _run_jobs(checkout, choice, environment)
                story.append(f"Snakemake killed, then jobs {choice}: {kept}")
                process = start()
            elif kind == "rank":
                story.append(_kill_process(checkout, chance, "mtlpar"))
            elif kind == "job's snakemake":
                story.append(_kill_process(checkout, chance, "snakemake"))
            else:
                story.append(_set_node_down(checkout, chance, environment))
        for _ in range(_RESTARTS):
            if process.wait(timeout=1500) == 0:
                return story
            story.append("Snakemake gave up")
            _run_jobs(checkout, "--cancel", environment)
            process = start()
    finally:
        _kill(process)
        output.close()
    text = (checkout / "faults.log").read_text()
    raise AssertionError("\n".join([*story, text[-5000:]]))


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _run_jobs(checkout: Path, choice: str, environment: Mapping[str, str] | None) -> str:
    """Cancel or adopt what is left; returns what was kept."""
    done = run_mtlpar(checkout, ["jobs", choice], environment)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("kept")]
    return ", ".join(lines) or "nothing kept"


def _kill_process(checkout: Path, chance: random.Random, program: str) -> str:
    """Kill a process of a program that works for this checkout in a job, if there is one."""
    found = [
        pid
        for pid, words in sorted(processes(checkout).items())
        if any(Path(word).name == program for word in words[:3]) and _is_in_job(pid)
    ]
    if not found:
        return f"no {program} in a job to kill"
    with suppress(ProcessLookupError):
        os.kill(chance.choice(found), signal.SIGKILL)
    return f"{program} in a job killed"


def _is_in_job(pid: int) -> bool:
    with suppress(OSError):
        return b"SLURM_JOB_ID=" in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def _set_node_down(
    checkout: Path, chance: random.Random, environment: Mapping[str, str] | None
) -> str:
    """Set a node down that works for this checkout, if there is one, and up again."""
    nodes = _nodes_at_work(checkout, environment)
    if not nodes:
        return "no node to set down"
    node = chance.choice(nodes)
    for state in ("down", "resume"):
        # A node whose daemon has reported meanwhile is up again, and cannot be resumed.
        subprocess.run(
            ["scontrol", "update", f"nodename={node}", f"state={state}", "reason=fault"],
            env={**os.environ, **(environment or {})},
            check=state == "down",
        )
        time.sleep(2)
    return f"{node} down"


def _nodes_at_work(checkout: Path, environment: Mapping[str, str] | None) -> list[str]:
    running = ask(environment or {}, "squeue", "-h", "--states=R", "-o", "%Z|%N").splitlines()
    lists = [line.split("|")[1] for line in running if line.startswith(f"{checkout}|")]
    if not lists:
        return []
    return ask(environment or {}, "scontrol", "show", "hostnames", ",".join(lists)).split()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=6)
    options = parser.parse_args()
    story = endure(
        options.checkout.resolve(), "--profile", "profiles/slurm", "table1",
        seed=options.seed, faults=options.faults,
    )  # fmt: skip
    sys.stdout.write("\n".join(story) + "\n")
