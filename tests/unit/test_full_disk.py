"""A disk that fills up ends a stage with one clear line, and the next run makes up for it.

A limit to the size of files stands in for the disk: the system refuses the same writes, in Python
and inside ADIOS2, with another reason.
"""

import resource
import subprocess
import sys

import pytest
from helpers import REPOSITORY

from mtlpar.cli import main

pytestmark = pytest.mark.long

# Less than a part or a pack of the sample takes, more than any manifest or lease.
LIMIT_BYTES = 30_000


def command_line(stage, folder, *more):
    line = [stage, "--config", str(REPOSITORY / "config.yaml")]
    for setting in (f"paths.raw={folder / 'raw'}", f"paths.results={folder / 'results'}"):
        line += ["--set", setting]
    return [*line, "--source", "ani1x", *more]


def run_without_room(line):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))

    return subprocess.run(
        [sys.executable, "-m", "mtlpar", *line],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )


@pytest.mark.parametrize(
    ("stage", "jobs", "product"), [("extract", 2, "extracted"), ("pack", 1, "packed")]
)
def test_a_stage_without_room_says_so_in_one_line_and_leaves_nothing(
    tmp_path, monkeypatch, stage, jobs, product
):
    monkeypatch.chdir(REPOSITORY)
    # Once in a process of its own, and once in the one that the user started.
    for before in {"extract": ["download"], "pack": ["download", "extract", "normalize"]}[stage]:
        assert main(command_line(before, tmp_path)) == 0
    line = command_line(stage, tmp_path, "--jobs", str(jobs))
    refused = run_without_room(line)
    # ADIOS2 would abort the process, and without a handler it ends in a traceback.
    assert refused.returncode == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    error = refused.stderr.splitlines()[-1]
    folder = tmp_path / "results" / product / "ani1x"
    assert str(folder) in error
    assert "File too large. Free space or correct permissions there" in error
    assert not list(folder.glob(".*.tmp"))
    assert main(line) == 0


# One process for each limit, all of them forks of one that has imported everything.
_WRITE = """
import os, resource, sys
from pathlib import Path
import numpy as np
from mtlpar.store.adios import open_to_write
for limit in map(int, sys.argv[2:]):
    if os.fork():
        print(limit, os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
        continue
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        with open_to_write(Path(sys.argv[1], f"{limit}.bp")) as stream:
            stream.begin_step()
            for index in range(50):
                stream.write(f"x{index}", np.arange(128.0), [128], [0], [128])
            stream.end_step()
    except OSError as error:
        print(limit, error.strerror, flush=True)
    sys.exit()
"""
# In the header, the index, the metadata or the data.
LIMITS = (0, 10, 100, 1000, 20_000, 50_000)


def test_a_disk_that_fills_up_at_any_byte_of_a_file_ends_nothing_but_the_write(tmp_path):
    # Where ADIOS2 cannot even close a file it aborts the process, in the middle or after the error
    # was told.
    done = subprocess.run(
        [sys.executable, "-c", _WRITE, str(tmp_path), *map(str, LIMITS)],
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for limit in LIMITS for line in (f"{limit} File too large", f"{limit} 0")]
    assert (done.stdout.splitlines(), done.stderr) == (told, "")
