"""Jobs that nobody saw end are told to Snakemake, by what their own records say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from checkout import copy_checkout, make_small, run_mtlpar, run_snakemake

pytestmark = pytest.mark.workflow

MANIFEST = "results/extracted/qm7x/manifest.json"
LOCAL = ("--profile", "profiles/local", "--cores", "2", MANIFEST)


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which a job of Slurm extracted a source after its Snakemake had died."""
    checkout = copy_checkout(tmp_path_factory.mktemp("adoption") / "mtlpar")
    make_small(checkout)
    status, output = run_snakemake(checkout, *LOCAL)
    assert status == 0, output[-5000:]
    record = checkout / "results/provenance/extract/qm7x.json"
    content = json.loads(record.read_text())
    content["attempts"][-1]["job"] = "77"
    record.write_text(json.dumps(content))
    shutil.rmtree(checkout / ".snakemake/metadata")
    sent = "Job 1 has been submitted with SLURM jobid 77 (log: x).\n"
    (checkout / ".snakemake/log/2999.snakemake.log").write_text(sent)
    return checkout


def plan(checkout: Path, *options: str) -> str:
    """What Snakemake would do."""
    status, output = run_snakemake(checkout, *LOCAL, "--dry-run", *options)
    assert status == 0, output
    return output


OTHER_SETTINGS = ("--config", "extract__max_force_ev_per_angstrom=77")


def test_what_a_job_was_made_with_is_known_after_its_adoption(left_alone: Path) -> None:
    # Without a note Snakemake takes everything for up to date, whatever the settings.
    assert "Nothing to be done" in plan(left_alone, *OTHER_SETTINGS)
    adopted = run_mtlpar(left_alone, ["jobs", "--adopt"])
    assert adopted.returncode == 0, adopted.stderr
    assert "kept: extract qm7x\n" in adopted.stdout
    assert "Nothing to be done" in plan(left_alone)
    assert "Params have changed" in plan(left_alone, *OTHER_SETTINGS)


def test_what_other_code_made_is_not_passed_off_as_made_by_this(left_alone: Path) -> None:
    with (left_alone / "src/mtlpar/extract/stage.py").open("a") as stream:
        stream.write("SOMETHING_ELSE = 1\n")
    adopted = run_mtlpar(left_alone, ["jobs", "--adopt"])
    assert adopted.returncode == 0, adopted.stderr
    assert "kept" not in adopted.stdout
    assert f"snakemake --force {MANIFEST}" in adopted.stderr
