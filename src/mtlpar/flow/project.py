"""Writes a folder in which Snakemake can run, from the files that came with the package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import mtlpar

CONTENTS: Final = ("Snakefile", "config.yaml", "rules", "profiles", "envs", "workflow")
"""What a folder needs; setup.py packs the same into the wheel."""

SAMPLE: Final = Path("workflow", "sample")


def write_project(folder: Path, *, with_sample: bool) -> None:
    """Write the workflow, its settings and its profiles.

    Args:
        folder: Where to; created if missing.
        with_sample: Whether to write the embedded sample too.

    Raises:
        ValueError: If one of the files is there already; nothing is written then.
    """
    there = [name for name in CONTENTS if (folder / name).exists()]
    if there:
        raise ValueError(
            f"{folder} already has {', '.join(there)}, which init does not overwrite; "
            "name another folder"
        )
    origin = project_files()
    folder.mkdir(parents=True, exist_ok=True)
    for name in CONTENTS:
        if (origin / name).is_file():
            shutil.copy(origin / name, folder / name)
        else:
            shutil.copytree(
                origin / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
    if not with_sample:
        shutil.rmtree(folder / SAMPLE)


def project_files() -> Path:
    """Where the files are: inside of an installed package, or at the root of a checkout."""
    package = Path(mtlpar.__file__).parent
    packed = package / "project"
    return packed if packed.is_dir() else package.parents[1]
