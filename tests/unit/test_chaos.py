"""Seeded faults on a tiny run: a short part of what `make chaos` tries for minutes."""

from __future__ import annotations

import random

import pytest
from chaos import COMMANDS, FAILURES, Chaos, Ended, edited, flipped_bit, table

TRIES = 20


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Chaos:
    return Chaos(tmp_path_factory.mktemp("chaos"), seed=1)


def test_no_seeded_fault_is_silently_wrong_ends_in_a_traceback_or_hangs(chaos: Chaos) -> None:
    tries = [chaos.attempt(index) for index in range(TRIES)]
    assert not [str(one) for one in tries if one.outcome in FAILURES], table(tries)
    # A harness that damages nothing finds nothing either.
    assert sum(one.outcome == "refused" for one in tries) >= TRIES // 5


@pytest.mark.parametrize(
    ("status", "output", "outcome"),
    [
        (1, "10:00:00 E error: one line\n", "refused"),
        (1, "10:00:00 E error: one line\n10:00:00 E error: another\n", "TRACEBACK"),
        (70, "Traceback (most recent call last):\nKeyError: 'a'\n", "TRACEBACK"),
        (-11, "", "TRACEBACK"),
        (None, "", "HANG"),
        # There are no products in an empty folder.
        (0, "", "SILENT WRONG"),
        (0, "10:00:00 W a warning that no sound run gives\n", "warned"),
    ],
)
def test_what_a_command_says_and_writes_is_judged(
    chaos: Chaos, status: int | None, output: str, outcome: str
) -> None:
    command = COMMANDS[0]
    assert chaos.judge(command, Ended(status, output, 1.0), found={})[0] == outcome


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
