"""`mtlpar profiles install`: bare names work from anywhere in the checkout."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from checkout import copy_checkout, environment_of, run_mtlpar
from warm import warm_python

pytestmark = pytest.mark.workflow


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_checkout(tmp_path / "mtlpar")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """A home folder of its own, where Snakemake looks for profiles."""
    return {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "home" / ".config")}


def dry_run(folder: Path, checkout: Path, home: dict[str, str], profile: str) -> str:
    done = subprocess.run(
        [*warm_python(), "-m", "snakemake", "--profile", profile, "-n"],
        cwd=folder,
        env=environment_of(checkout, home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def test_a_bare_name_works_from_a_folder_below(checkout: Path, home: dict[str, str]) -> None:
    done = run_mtlpar(checkout, ["profiles", "install", "frontier", "--account", "bif150"], home)
    assert done.returncode == 0, done.stderr
    below = checkout / "src" / "mtlpar"
    output = dry_run(below, checkout, home, "frontier")
    # The account of the command, the rest of the checkout's profile.
    assert "slurm_account=bif150" in output
    assert "slurm_account=ABC123" not in output
    models = yaml.safe_load((checkout / "config.yaml").read_text())["models"]
    assert re.search(rf"^train +{len(models)}$", output, re.MULTILINE)
    assert not (below / ".snakemake").exists()


def test_an_edit_of_the_profile_counts_without_a_new_installation(
    checkout: Path, home: dict[str, str]
) -> None:
    # Python has a function of this name, which Snakemake would take it for.
    arguments = ["profiles", "install", "aurora", "--account", "open"]
    assert run_mtlpar(checkout, arguments, home).returncode == 0
    path = checkout / "profiles" / "aurora" / "config.yaml"
    path.write_text(path.read_text().replace("pbs_queue: capacity", "pbs_queue: prod"))
    output = dry_run(checkout, checkout, home, "aurora")
    assert "pbs_queue=prod" in output
    assert "pbs_account=open" in output


def test_an_account_of_nobody_is_refused(checkout: Path, home: dict[str, str]) -> None:
    done = run_mtlpar(checkout, ["profiles", "install", "frontier"], home)
    assert done.returncode == 1
    assert "--account" in done.stderr


def test_a_profile_of_the_users_own_is_left_alone(checkout: Path, home: dict[str, str]) -> None:
    own = Path(home["XDG_CONFIG_HOME"]) / "snakemake" / "local" / "config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("cores: 1\n")
    done = run_mtlpar(checkout, ["profiles", "install", "local"], home)
    assert done.returncode == 1
    assert "of your own" in done.stderr
    assert own.read_text() == "cores: 1\n"


def test_the_environment_goes_to_the_jobs(checkout: Path, home: dict[str, str]) -> None:
    arguments = ["profiles", "install", "slurm", "--account", "x", "--environment", "my env"]
    assert run_mtlpar(checkout, arguments, home).returncode == 0
    text = (Path(home["XDG_CONFIG_HOME"]) / "snakemake" / "slurm" / "config.yaml").read_text()
    assert f"MTLPAR_ENV='{checkout / 'my env'}'; " in text


def test_elsewhere_is_refused(tmp_path: Path, checkout: Path, home: dict[str, str]) -> None:
    done = subprocess.run(
        [*warm_python(), "-m", "mtlpar", "profiles", "install"],
        cwd=tmp_path,
        env=environment_of(checkout, home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "run this in a checkout" in done.stderr
