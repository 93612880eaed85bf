"""A disk that fills up ends a stage with one clear line, and the next run makes up for it.

A limit to the size of files stands in for the disk: the system refuses the same writes, in Python
and inside ADIOS2, with another reason.
"""

import resource
import subprocess
import sys

import pytest
from helpers import REPOSITORY

# Less than a part or a pack of the sample takes, more than any manifest or lease.
LIMIT_BYTES = 30_000


def run(stage, folder, *more, limit_bytes=None):
    def limit():
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    command = [sys.executable, "-m", "mtlpar", stage, "--config", REPOSITORY / "config.yaml"]
    settings = (f"paths.raw={folder / 'raw'}", f"paths.results={folder / 'results'}")
    for setting in settings:
        command += ["--set", setting]
    return subprocess.run(
        [*command, "--source", "ani1x", *more],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )


@pytest.mark.parametrize(
    ("stage", "jobs", "product"), [("extract", 2, "extracted"), ("pack", 1, "packed")]
)
def test_a_stage_without_room_says_so_in_one_line_and_leaves_nothing(
    tmp_path, stage, jobs, product
):
    # Once in a process of its own, and once in the one that the user started.
    for before in {"extract": ["download"], "pack": ["download", "extract", "normalize"]}[stage]:
        assert run(before, tmp_path).returncode == 0
    refused = run(stage, tmp_path, "--jobs", str(jobs), limit_bytes=LIMIT_BYTES)
    # ADIOS2 would abort the process, and without a handler it ends in a traceback.
    assert refused.returncode == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    error = refused.stderr.splitlines()[-1]
    folder = tmp_path / "results" / product / "ani1x"
    assert str(folder) in error
    assert "File too large. Free space or correct permissions there" in error
    assert not list(folder.glob(".*.tmp"))
    done = run(stage, tmp_path, "--jobs", str(jobs))
    assert done.returncode == 0, done.stderr


_WRITE = """
import resource, sys
from pathlib import Path
import numpy as np
from mtlpar.store.adios import open_to_write
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with open_to_write(Path(sys.argv[2])) as stream:
        stream.begin_step()
        for index in range(50):
            stream.write(f"x{index}", np.arange(128.0), [128], [0], [128])
        stream.end_step()
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("limit_bytes", [0, 10, 100, 1000, 20_000, 50_000])
def test_a_disk_that_fills_up_at_any_byte_of_a_file_ends_nothing_but_the_write(
    tmp_path, limit_bytes
):
    # In the header, the index, the metadata or the data. Where ADIOS2 cannot even close a file it
    # aborts the process, in the middle or after the error was told.
    done = subprocess.run(
        [sys.executable, "-c", _WRITE, str(limit_bytes), str(tmp_path / "a.bp")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "File too large\n", "")
