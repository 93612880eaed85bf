"""What a command says without PyTorch, it says without waiting for PyTorch to be imported."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import REPOSITORY

from mtlpar.cli import build_parser
from mtlpar.cli.examples import EXAMPLES

# Importing one of these modules ends a command; one process can then try many.
_DRIVER = """
import contextlib, io, json, sys

class EndsAt:
    def find_spec(self, name, path=None, target=None):
        if name in sys.argv[1:]:
            raise BaseException(f"imports {name}")

sys.meta_path.insert(0, EndsAt())
from mtlpar.cli import main

found = {}
for name, words in json.load(sys.stdin).items():
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(words)
        except BaseException as end:
            status = repr(end)
    found[name] = [status, said.getvalue()]
json.dump(found, sys.stdout)
"""


def _parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from list(_parsers(one)) or [(one.prog.removeprefix("mtlpar "), one)]


def _wrong_paths() -> dict[str, list[str]]:
    """For each command that reads a path, its example in a folder where nothing is."""
    cases = {}
    for name, parser in _parsers(build_parser()):
        words = EXAMPLES[name].rpartition("-- mtlpar ")[2].removeprefix("mtlpar ").split()
        if "--config" in parser._option_string_actions:
            cases[name] = [*words, "--config", "missing.yaml"]
        elif any(action.metavar in ("MODEL", "FILE.bp") for action in parser._actions):
            cases[name] = words
    machine = ["--machine", "missing.yaml", "--set", "seed=1"]
    return {
        **cases,
        **{
            f"{name}, a machine": [*name.split(), *machine] for name in ("plan layout", "plan data")
        },
        "predict, structures": ["predict", "here.pt", "missing.xyz", "--out", "out.xyz"],
        "finetune, structures": ["finetune", "here.pt", "missing.xyz", "--level", "PBE"],
        "lammps, a model": ["lammps", "here.pt", "--model", "missing.pt"],
        "lammps, structures": ["lammps", "here.pt", "--model", "here.pt", "--structure", "a.xyz"],
    }


CASES = _wrong_paths()


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int | str, str]]:
    """Exit status and messages of all commands with a wrong path."""
    folder: Path = tmp_path_factory.mktemp("nothing")
    (folder / "here.pt").touch()
    return _run(CASES, folder, ends_at=["torch"])


def _run(
    cases: dict[str, list[str]], folder: Path, *, ends_at: list[str], **environment: str
) -> dict[str, tuple[int | str, str]]:
    """Exit status and messages of commands that end where they import one of some modules."""
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, *ends_at],
        cwd=folder,
        env={**os.environ, **environment},
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.long
def test_ranks_start_mpi_before_torch_is_imported(tmp_path: Path) -> None:
    # Cray's MPI wants to be there before torch loads its communication libraries.
    (tmp_path / "here.pt").touch()
    config = ["--config", str(REPOSITORY / "config.yaml"), "--set", f"paths.results={tmp_path}"]
    machine = ["--machine", str(REPOSITORY / "workflow" / "machines" / "frontier.yaml")]
    layout = ["--out", "out.json", "--layout", "mtl-par"]
    cases = {
        "train": ["train", "--model", "ani1x", *config],
        "predict": ["predict", "here.pt", "here.pt", "--out", "out.xyz"],
        "doctor": ["doctor"],
        "plan calibrate": ["plan", "calibrate", *machine, "--out", "out.yaml"],
        "study memory": ["study", "memory", *config, *layout, "--branches", "2"],
        "study scaling": ["study", "scaling", *config, "--out", "out.json"],
        "study comm": ["study", "comm", *config, *layout],
        "study compatibility": [
            *("study", "compatibility", *config, "--out", "out.json"),
            *("--mixture", "ani1x+qm7x", "--seed", "0"),
        ],
    }
    found = _run(cases, tmp_path, ends_at=["torch", "mpi4py.MPI"], PMI_RANK="0")
    assert {name: status for name, (status, _) in found.items()} == dict.fromkeys(
        cases, "BaseException('imports mpi4py.MPI')"
    )
    users = [
        path.stem
        for path in (REPOSITORY / "src" / "mtlpar" / "cli").glob("*.py")
        if re.search(r"^    with (joined_ranks|stage_on_ranks)", path.read_text(), re.MULTILINE)
    ]
    # What works on the first rank has torch imported: it is no stage that begins with its ranks.
    assert set(users) - {"common"} == {"cluster", "models", "plan", "predict", "study"}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_path_is_refused_before_torch_is_imported(case: str, said) -> None:
    status, message = said[case]
    assert status == 1, (status, message)
    wrong = {str(Path(word)) for word in CASES[case][1:] if {".", "/"} & set(word)} - {"here.pt"}
    assert any(path in message for path in wrong), message


def test_every_command_that_reads_a_path_is_tried() -> None:
    # Those left out read no path, or only one to write to.
    left_out = {name for name in EXAMPLES if name not in CASES}
    assert left_out == {"init", "schema", "launch", "jobs", "profiles"}


def test_help_is_written_without_what_only_stages_need() -> None:
    code = (
        "import sys\nfrom mtlpar.cli import build_parser\nbuild_parser().format_help()\n"
        "print(*{'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
