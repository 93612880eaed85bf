"""Jobs that nobody saw end are told to Snakemake, by what their own records say."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import run_mtlpar, run_snakemake
from warm import warm_environment

from mtlpar.core.records import write_content
from mtlpar.flow.run_record import RunRecord

pytestmark = pytest.mark.workflow

MANIFEST = "results/extracted/qm7x/manifest.json"
LOCAL = ("--profile", "profiles/local", "--cores", "2", MANIFEST)
OTHER_SETTINGS = ("--config", "extract__max_force_ev_per_angstrom=77")
KEPT = "Kept, though no Snakemake saw its job end: extract qm7x"


@pytest.fixture(scope="module")
def died(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which a job of Slurm extracted a source after its Snakemake had died."""
    checkout = shutil.copytree(small_run, tmp_path_factory.mktemp("adoption") / "mtlpar")
    # The Snakemake that notes what is kept is a fork too, as the one that starts it.
    snakefile = checkout / "Snakefile"
    python = str(warm_environment() / "bin" / "python")
    snakefile.write_text(f"import sys\n\nsys.executable = {python!r}\n{snakefile.read_text()}")
    record = checkout / "results/provenance/extract/qm7x.json"
    content = json.loads(record.read_text())
    content["attempts"][-1]["job"] = "77"
    write_content(record, RunRecord, content)
    shutil.rmtree(checkout / ".snakemake/metadata")
    sent = (
        f"  Host: {socket.gethostname()}\nJob 1 has been submitted with SLURM jobid 77 (log: x).\n"
    )
    (checkout / ".snakemake/log/2999.snakemake.log").write_text(sent)
    lock = checkout / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(f"{MANIFEST}\n")
    return checkout


@pytest.fixture
def left_alone(died: Path, tmp_path: Path) -> Path:
    return shutil.copytree(died, tmp_path / "mtlpar", symlinks=True)


def plan(checkout: Path, *options: str) -> str:
    """What Snakemake would do."""
    status, output = run_snakemake(checkout, *LOCAL, "--dry-run", *options)
    assert status == 0, output
    return output


def test_a_plain_start_keeps_what_a_job_made_that_nobody_saw_end(left_alone: Path) -> None:
    status, output = run_snakemake(left_alone, *LOCAL)
    assert status == 0, output[-5000:]
    assert KEPT in output
    # Neither the lock nor the missing note of the dead one is in the way.
    assert "Nothing to be done" in output
    # What it was made with is known. Without a note Snakemake takes everything for up to date.
    output = plan(left_alone, *OTHER_SETTINGS)
    assert "Params have changed" in output
    # Once is enough: outputs that are marked again look newer than what was made of them.
    assert KEPT not in output


def test_by_hand_it_is_the_same(left_alone: Path) -> None:
    adopted = run_mtlpar(left_alone, ["jobs", "--adopt"])
    assert adopted.returncode == 0, adopted.stderr
    assert "kept: extract qm7x\n" in adopted.stdout
    output = plan(left_alone)
    assert "Nothing to be done" in output
    assert KEPT not in output


def test_what_other_code_made_is_not_passed_off_as_made_by_this(left_alone: Path) -> None:
    with (left_alone / "src/mtlpar/extract/stage.py").open("a") as stream:
        stream.write("SOMETHING_ELSE = 1\n")
    status, output = run_snakemake(left_alone, *LOCAL)
    assert status == 0, output[-5000:]
    assert KEPT not in output
    assert f"snakemake --force {MANIFEST}" in output


def test_a_snakemake_that_may_be_at_work_is_left_alone(left_alone: Path) -> None:
    # One on this machine, which could be between two of its own notes.
    script = left_alone / "snakemake"
    script.write_text("import sys; print('at work', flush=True); sys.stdin.read()")
    pipe = subprocess.PIPE
    other = subprocess.Popen([sys.executable, script], cwd=left_alone, stdin=pipe, stdout=pipe)
    try:
        # The system shows the command a moment after the process is there.
        assert other.stdout is not None
        assert other.stdout.readline()
        assert KEPT not in plan(left_alone)
    finally:
        other.communicate()
    # One on another login node, of which nothing is known but that its lock is there.
    log = left_alone / ".snakemake/log/2999.snakemake.log"
    log.write_text(log.read_text().replace(f"Host: {socket.gethostname()}", "Host: login9"))
    output = plan(left_alone)
    assert KEPT not in output
    assert "may be that of a Snakemake on login9" in output
    assert "mtlpar jobs --adopt" in output
    assert (left_alone / ".snakemake/locks/0.output.lock").exists()
    # Without its lock it has ended. A plan keeps what is there, or it would not be that of the run.
    shutil.rmtree(left_alone / ".snakemake/locks")
    assert KEPT in plan(left_alone)
