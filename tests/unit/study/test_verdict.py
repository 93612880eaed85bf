"""What costs a step on many ranks is named, with who it is, from the times of every step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import REPOSITORY
from warm import warm_python

from mtlpar.core.files import read_json
from mtlpar.study.stopwatch import Stopwatch
from mtlpar.study.verdict import COLUMNS, PARTS, Steps, judge

RANKS, STEPS = 8, 40


def steps(
    *,
    computes: Sequence[int] = (),
    loads: Sequence[int] = (),
    sends: Sequence[int] = (),
    leaves: Sequence[int] = (),
    sums_s: float = 0.002,
    jitter_s: float = 0.002,
    pair_seconds: Sequence[float] = (),
) -> Steps:
    """Steps of eight ranks on four nodes, of 60 ms; some ranks do something 30 ms longer."""
    rng = np.random.default_rng(3)
    data, compute, sending = (scale * rng.random((RANKS, STEPS)) for scale in (1e-4, 0, 1e-4))
    compute += 0.055 + jitter_s * rng.random((RANKS, STEPS))
    for column, ranks in ((compute, computes), (data, loads), (sending, sends)):
        column[list(ranks)] += 0.03
    now, arrived, left = np.zeros(RANKS), [], []
    for step in range(STEPS):
        now = now + data[:, step] + compute[:, step] + sending[:, step]
        arrived.append(now)
        # Some networks vary by themselves, and nobody has a sum at quite the same time.
        now = now.max() + sums_s * rng.uniform(0.7, 1.3) + 1e-4 * rng.random(RANKS)
        now[list(leaves)] += 0.03
        left.append(now)
    return Steps(
        data=data,
        compute=compute,
        sending=sending,
        arrived=np.array(arrived).T,
        left=np.array(left).T,
        ranks_per_node=2,
        pair_seconds=pair_seconds,
    )


EVERYONE = range(RANKS)
CASES = {
    "one rank computes longer": ({"computes": [3]}, "straggler", "rank 3 on node 1"),
    "one node computes longer": ({"computes": [4, 5]}, "straggler", "node 2 (ranks 4-5)"),
    "ranks of two nodes": ({"computes": [1, 6]}, "straggler", "ranks 1, 6"),
    "ranks take turns": ({"jitter_s": 0.06}, "straggler", None),
    "one loader is slow": ({"loads": [6]}, "data", "rank 6 on node 3"),
    "all loaders are slow": ({"loads": EVERYONE}, "data", None),
    "one node sends late": ({"sends": [2, 3]}, "collective", "node 1 (ranks 2-3)"),
    "one node receives late": ({"leaves": [2, 3]}, "collective", "node 1 (ranks 2-3)"),
    "the network is slow": ({"sums_s": 0.03}, "collective", None),
    "one node's network is slow": (
        {"sums_s": 0.03, "pair_seconds": [0.01, 0.03, 0.031, 0.011]},
        "collective",
        "the network of node 2",
    ),
    "nothing": ({}, None, None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_cause_and_the_culprit_are_named(name: str) -> None:
    options, cause, culprit = CASES[name]
    verdict = judge(steps(**options))
    assert (verdict.cause, verdict.culprit) == (cause, culprit)
    if verdict.excess is not None:
        assert verdict.excess.low <= 0.03 <= verdict.excess.high + 0.001
    assert len(verdict.lines()) == 2


@pytest.mark.parametrize("name", CASES)
def test_parts_add_up_to_the_step_and_to_its_variance(name: str) -> None:
    verdict = judge(steps(**CASES[name][0]))
    assert sum(verdict.seconds[part].mean for part in PARTS) == pytest.approx(verdict.step.mean)
    assert sum(verdict.variance.values()) == pytest.approx(1)
    for interval in (verdict.step, *verdict.seconds.values()):
        assert interval.low <= interval.mean <= interval.high


def test_what_varies_is_told_from_what_is_slow() -> None:
    # One rank is slow in the mean, evenly; the network decides which steps take longer.
    verdict = judge(steps(computes=[3], sums_s=0.015))
    assert verdict.cause == "straggler"
    assert verdict.variance["collective"] > 0.8


def test_a_pair_of_slow_nodes_names_none() -> None:
    # Two neighbours: either could be it, and so could the link between them.
    assert judge(steps(sums_s=0.03, pair_seconds=[0.01, 0.03, 0.01, 0.01])).culprit is None
    assert judge(steps(sums_s=0.03, pair_seconds=[0.03])).culprit is None


def test_a_stopwatch_splits_what_a_rank_does_and_forgets_nothing() -> None:
    now = 0.0
    watch = Stopwatch(torch.device("cpu"), clock=lambda: now)

    def lasts(name: str, seconds: float) -> None:
        nonlocal now
        watch.begin(name)
        now += seconds
        watch.end(name)

    for _ in range(2):
        lasts("data", 1.0)
        now += 0.25  # Whatever has no name is the rank's own.
        watch.begin("compute")
        now += 2.0
        lasts("sum the encoder", 0.5)
        watch.end("compute")
        lasts("reduce", 4.0)
        lasts("update", 0.125)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in watch.steps]
    assert rows[0] == {"data": 1, "compute": 2.25, "sending": 0.5, "arrived": 3.75, "left": 7.75}
    # The update of the step before delays this one.
    assert rows[1]["compute"] == 2.375
    assert rows[1]["arrived"] == 7.75 + 1 + 2.375 + 0.5


@pytest.mark.slow
@pytest.mark.mpi
def test_ranks_that_are_held_up_on_purpose_are_named(tmp_path: Path) -> None:
    # Delays of 0.4 s by wrapping what ranks call, on real ranks: whatever a busy machine adds.
    line = [
        sys.executable, "-m", "mtlpar", "launch", "--ranks-per-node", "4", "--", *warm_python(),
        str(REPOSITORY / "tests" / "delayed_ranks.py"), str(tmp_path / "found.json"),
    ]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = {
        name: (v["cause"], v["culprit"]) for name, v in read_json(tmp_path / "found.json").items()
    }
    assert found == {
        "a rank computes longer": ("straggler", "rank 2 on node 1"),
        "a node computes longer": ("straggler", "node 0 (ranks 0-1)"),
        "a node sends late": ("collective", "node 1 (ranks 2-3)"),
        "a node receives late": ("collective", "node 1 (ranks 2-3)"),
        "a rank loads slowly": ("data", "rank 1 on node 0"),
        "all ranks load slowly": ("data", None),
        "a node's network is slow": ("collective", "the network of node 2"),
    }
