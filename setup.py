"""Packs what `mtlpar init` writes into the wheel; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# As in src/mtlpar/flow/project.py.
CONTENTS = ("Snakefile", "config.yaml", "rules", "profiles", "envs", "workflow")


class BuildWithProject(build_py):
    """Copies the workflow beside the modules; an editable install reads it where it is."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "mtlpar", "project")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in CONTENTS:
            if Path(name).is_file():
                shutil.copy(name, target / name)
            else:
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(name, target / name, ignore=ignore)


setup(cmdclass={"build_py": BuildWithProject})
