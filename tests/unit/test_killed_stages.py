"""Stages with several processes, killed at random moments, end with an undisturbed run's bytes."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from helpers import REPOSITORY

# Many pieces, parts that end inside a piece, and runs and blocks that are sorted and gathered
# side by side: a blow finds some done, some begun and some not.
SETTINGS = (
    "extract.piece_bytes=300_000", "extract.part_structures=100", "pack.block_structures=32",
)  # fmt: skip
SOURCES = ("mptrj", "qm7x")
KILLS = 3


def start(stage, folder, *more, jobs=2):
    command = [sys.executable, "-m", "mtlpar", stage, "--config", REPOSITORY / "config.yaml", *more]
    for source in SOURCES:
        command += ["--source", source]
    for setting in (
        f"paths.raw={folder / 'raw'}",
        f"paths.results={folder / 'results'}",
        *SETTINGS,
    ):
        command += ["--set", setting]
    if stage != "download":
        command += ["--jobs", str(jobs)]
    # A group of its own, which can be killed as a scheduler does it.
    return subprocess.Popen(
        command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True
    )


def finish(*arguments, **more):
    process = start(*arguments, **more)
    _, messages = process.communicate()
    assert process.returncode == 0, messages


def digests(folder):
    """Checksum of every file that the stages left, but for those about who ran them and when."""
    results = folder / "results"
    return {
        path.relative_to(results).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.is_file() and "provenance" not in path.parts and ".lease-" not in path.name
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_stages_killed_at_random_moments_write_the_bytes_of_an_undisturbed_run(tmp_path, seed):
    dice = random.Random(seed)
    quiet, harsh = tmp_path / "quiet", tmp_path / "harsh"
    for folder in (quiet, harsh):
        finish("download", folder)
    for stage in ("extract", "normalize", "pack"):
        begin = time.monotonic()
        finish(stage, quiet, jobs=1)
        seconds = time.monotonic() - begin
        for _ in range(KILLS):
            process = start(stage, harsh)
            # Processes take a while to start: on data as small as these two need longer than one.
            time.sleep(dice.uniform(0.2, 2) * seconds)
            if dice.random() < 0.5:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        finish(stage, harsh)
        assert digests(harsh) == digests(quiet)
