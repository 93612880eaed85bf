"""What a command says without PyTorch, it says without waiting for PyTorch to be imported."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtlpar.cli import build_parser
from mtlpar.cli.examples import EXAMPLES

# Imports of torch end a command, whoever asks for it; one process can then try them all.
_DRIVER = """
import contextlib, io, json, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise BaseException("imports torch")

sys.meta_path.insert(0, NoTorch())
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
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER],
        cwd=folder,
        input=json.dumps(CASES),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_path_is_refused_before_torch_is_imported(case: str, said) -> None:
    status, message = said[case]
    assert status == 1, (status, message)
    wrong = {str(Path(word)) for word in CASES[case][1:] if {".", "/"} & set(word)} - {"here.pt"}
    assert any(path in message for path in wrong), message


def test_every_command_that_reads_a_path_is_tried() -> None:
    # Those left out read no path, or only one to write to.
    left_out = {name for name in EXAMPLES if name not in CASES}
    assert left_out == {"init", "schema", "sample", "launch", "jobs", "profiles"}


def test_help_is_written_without_what_only_stages_need() -> None:
    code = (
        "import sys\nfrom mtlpar.cli import build_parser\nbuild_parser().format_help()\n"
        "print(*{'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
