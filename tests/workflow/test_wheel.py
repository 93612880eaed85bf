"""An installed wheel works without a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from checkout import REPOSITORY
from warm import warm_python

from mtlpar.flow.project import CONTENTS


@pytest.mark.workflow
def test_a_wheel_starts_a_folder_in_which_snakemake_plans_the_whole_workflow(
    tmp_path: Path,
) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    # What a build needs, apart: it leaves folders beside the sources.
    for name in ("src", *CONTENTS):
        origin = REPOSITORY / name
        if origin.is_dir():
            shutil.copytree(
                origin, source / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
            )
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(origin, source / name)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    build = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    # Ahead of the checkout, which is installed too.
    environment = os.environ | {"PYTHONPATH": str(site)}

    def run(*line: str, folder: Path, python: Sequence[str] = (sys.executable,)) -> str:
        done = subprocess.run(
            [*python, "-m", *line],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    told = run("mtlpar", "init", "trial", "--sample", folder=tmp_path)
    assert "snakemake --profile profiles/local" in told
    # Forks, which import the package from there too.
    there = {"folder": tmp_path / "trial", "python": warm_python()}
    assert "model mtl" in run("mtlpar", "info", **there)
    plan = run("snakemake", "--profile", "profiles/local", "--cores", "1", "-n", **there)
    assert "rule train:" in plan
