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
