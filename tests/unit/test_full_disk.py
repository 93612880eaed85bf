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


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_stage_without_room_says_so_in_one_line_and_leaves_nothing(tmp_path, jobs):
    run("download", tmp_path)
    for stage, product in (("extract", "extracted/ani1x"), ("pack", "packed/ani1x")):
        refused = run(stage, tmp_path, "--jobs", jobs, limit_bytes=LIMIT_BYTES)
        # ADIOS2 would abort the process, and without a handler it ends in a traceback.
        assert refused.returncode == 1, refused.stderr
        error = refused.stderr.splitlines()[-1]
        assert str(tmp_path / "results" / product) in error
        assert "File too large. Free space or correct permissions there" in error
        assert "Traceback" not in refused.stderr
        assert not list((tmp_path / "results" / product).glob(".*.tmp"))
        done = run(stage, tmp_path, "--jobs", jobs)
        assert done.returncode == 0, done.stderr
        assert run("normalize", tmp_path).returncode == 0
