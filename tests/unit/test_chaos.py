"""Seeded faults on a tiny run: a short part of what `make chaos` tries for minutes."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from chaos import Ended, Usual, edited, flipped_bit, judge
from helpers import REPOSITORY
from warm import warm_python

TRIES = 12


def test_no_seeded_fault_is_silently_wrong_ends_in_a_traceback_or_hangs(tmp_path: Path) -> None:
    # Not in this process: forks of one that has computed gradients cannot train.
    log = tmp_path / "chaos.log"
    done = subprocess.run(
        [
            *(*warm_python(), str(REPOSITORY / "tests" / "chaos.py"), "--log", str(log)),
            *("--stages", "--tries", str(TRIES), "--seconds", "600"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = [line.split()[1] for line in log.read_text().splitlines()]
    assert len(outcomes) == TRIES
    # A harness that damages nothing finds nothing either.
    assert outcomes.count("refused") >= TRIES // 5


@pytest.mark.parametrize(
    ("status", "output", "outcome"),
    [
        (1, "10:00:00 E error: one line\n", "refused"),
        (1, "10:00:00 E error: one line\n10:00:00 E error: another\n", "TRACEBACK"),
        (70, "Traceback (most recent call last):\nKeyError: 'a'\n", "TRACEBACK"),
        (-11, "", "TRACEBACK"),
        (None, "", "HANG"),
        # It made nothing.
        (0, "", "SILENT WRONG"),
        (0, "10:00:00 W as always\n", "SILENT WRONG"),
        (0, "10:00:00 W a warning that no sound run gives\n", "warned"),
    ],
)
def test_what_a_command_says_and_writes_is_judged(
    status: int | None, output: str, outcome: str
) -> None:
    usual = Usual(Ended(0, "10:00:00 W as always\n", 1.0), {"model.pt": "0a"})
    assert judge(Ended(status, output, 1.0), {}, usual)[0] == outcome


def test_equal_seeds_make_equal_faults(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("faults")
        path = folder / "one.json"
        path.write_text('{"a": [1, 2.5, "text"], "b": {"c": true}}', encoding="utf-8")
        dice = random.Random("1/7")
        for fault in (edited, flipped_bit):
            assert fault(folder, [path], dice, folder) is not None
        made.append(path.read_bytes())
    assert made[0] == made[1]
