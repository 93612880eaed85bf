#!/usr/bin/env python3
"""What goes wrong on clusters, at random moments drawn from a seed.

`endure` runs the workflow of a checkout through a profile, kills Snakemake, kills ranks and sets
nodes down meanwhile, and starts Snakemake again until it ends well. By hand, with a cluster of
`cluster.py` on PATH::

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

KINDS = ("snakemake", "rank", "node")
_NODES = ("shared00001", "shared00002")
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
                choice = chance.choice(("--cancel", "--adopt"))
                _kill(process)
                kept = _run_jobs(checkout, choice, environment)
                story.append(f"Snakemake killed, then jobs {choice}: {kept}")
                process = start()
            elif kind == "rank":
                story.append(_kill_rank(checkout, chance))
            else:
                node = chance.choice(_NODES)
                _set_node_down(node, environment)
                story.append(f"{node} down")
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


def _kill_rank(checkout: Path, chance: random.Random) -> str:
    """Kill one process of a stage that works for this checkout as a job, if there is one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            is_stage = any(word.endswith(b"/mtlpar") for word in words[:3])
            is_job = b"SLURM_JOB_ID=" in (process / "environ").read_bytes()
            if is_stage and is_job and (process / "cwd").resolve() == checkout.resolve():
                found.append((int(process.name), b" ".join(words[-8:]).decode()))
    if not found:
        return "no rank to kill"
    pid, what = chance.choice(sorted(found))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return f"rank killed: {what}"


def _set_node_down(node: str, environment: Mapping[str, str] | None) -> None:
    for state in ("down", "resume"):
        # A node whose daemon has reported meanwhile is up again, and cannot be resumed.
        subprocess.run(
            ["scontrol", "update", f"nodename={node}", f"state={state}", "reason=fault"],
            env={**os.environ, **(environment or {})},
            check=state == "down",
        )
        time.sleep(2)


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
