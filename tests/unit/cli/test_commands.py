"""What the commands say where a user stumbles."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import REPOSITORY

from mtlpar.cli import build_parser, main
from mtlpar.cli.common import read_config, read_config_or_defaults
from mtlpar.cli.examples import EXAMPLES
from mtlpar.config import Config, load_config
from mtlpar.config.resolved import write_resolved


@pytest.fixture(autouse=True)
def _in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from list(_commands(one)) or [one.prog.removeprefix("mtlpar ")]


def test_every_command_has_an_example_that_it_can_parse_and_no_example_is_left_over() -> None:
    assert set(_commands(build_parser())) == set(EXAMPLES)
    for example in EXAMPLES.values():
        for line in example.split(" -- "):
            _, unknown = build_parser().parse_known_args(
                [*line.split()[1:], *(["--", "true"] if " launch " in line else [])]
            )
            assert not unknown, example


def test_help_lists_every_command_once_and_in_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    for name in {name.split()[0] for name in EXAMPLES}:
        assert lines.count(name) == 1
    assert "machines:" in lines


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["trian"], "did you mean 'train'?"),
        (["plan", "layuot"], "did you mean 'layout'?"),
        (["train", "--modle", "mtl"], "did you mean --model?"),
        (["train", "--epochs", "5"], "--set train.epochs=5"),
        (["train", "--epochs=5"], "--set train.epochs=5"),
    ],
)
def test_an_unknown_argument_names_what_was_meant(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["train"], "--model is missing; the config has ani1x, qm7x"),
        (["train", "--model", "mtl", "--set", "epochs=5"], "did you mean 'train.epochs'?"),
        (
            ["train", "--model", "mtl", "--set", "models.mtl.start_from=3"],
            "a mapping with the keys model, branches, mode, keep_branches, got 3",
        ),
        (["info", "nowhere.pt"], "nowhere.pt does not exist"),
    ],
)
def test_a_mistake_ends_with_what_to_write_instead(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "name", "hint"),
    [
        ("check", "packed/train.bp", "mtlpar inspect describes it"),
        ("info", "packed", "mtlpar inspect describes it"),
        ("info", "empty", "holds no model.pt"),
        ("inspect", "packed", "choose one: "),
        ("inspect", "model.pt", "mtlpar info describes it"),
    ],
)
def test_a_path_of_another_kind_names_the_command_or_the_path_that_is_right(
    command: str, name: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "packed" / "train.bp").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    assert main([command, str(tmp_path / name)]) == 1
    assert hint in capsys.readouterr().err


def _config(*files: str) -> Config:
    return read_config(build_parser().parse_args(["leaks", "--config", *files]))


def test_given_files_lie_over_config_yaml_but_what_snakemake_merged_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 3\nmodels: {a: {branches: {a: [ani1x]}}}\n")
    (tmp_path / "mine.yaml").write_text("train: {epochs: 7}\n")
    # An override took the model a away: it must not come back.
    overrides = ["models.a=null", "models.b={branches: {b: [qm7x]}}"]
    merged = write_resolved(load_config([tmp_path / "config.yaml"], overrides), tmp_path / "any")
    mine = _config("mine.yaml")
    assert (mine.seed, mine.train.epochs) == (3, 7)
    assert set(_config(str(merged)).models) == {"b"}


def test_what_needs_no_config_runs_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = build_parser().parse_args(["doctor"])
    assert read_config_or_defaults(options).workspace.results == Path("results")


@pytest.mark.parametrize(
    "line",
    [["predict", "model.pt", "", "--out", "o.xyz"], ["init", ""], ["info", ""],
     ["card", "model.pt", "--out", ""]],
)  # fmt: skip
def test_an_empty_argument_is_not_read_as_the_present_folder(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # As where a variable of the shell is not set: init wrote a project here.
    assert main(line) == 1
    before = " ".join(line[: line.index("")])
    told = f"the argument after `{before}` is empty: is a variable of the shell not set?"
    assert told in capsys.readouterr().err


def test_a_name_that_no_figure_may_have_is_refused_before_a_pack_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pack.bp").mkdir()
    assert main(["inspect", str(tmp_path / "pack.bp"), "--plot", "x.pdf"]) == 1
    assert "--plot x.pdf: expected a name that ends in .png" in capsys.readouterr().err
    (tmp_path / "some.xyz").touch()
    assert main(["inspect", str(tmp_path / "some.xyz")]) == 1
    assert "some.xyz is a file, not a .bp folder" in capsys.readouterr().err


@pytest.fixture
def no_rank_starts(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be started instead of this process, in place of doing so."""
    started: list[list[str]] = []
    monkeypatch.setattr(
        "mtlpar.parallel.launch.launch", lambda _, command, **__: started.append(command)
    )
    return started


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("mtlpar train", "--model is missing; the config has"),
        ("mtlpar train --model mlt", "no model is called 'mlt'; there are"),
        ("mtlpar train --model mtl --set train.epohs=3", "did you mean 'epochs'?"),
        ("mtlpar doctor --config missing.yaml", "config file missing.yaml does not exist"),
        ("mtlprr train", "mtlprr: no such program, here or in PATH"),
    ],
)
def test_a_launch_of_a_mistaken_command_says_so_once_and_starts_no_rank(
    command: str,
    said: str,
    no_rank_starts: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["launch", "--ranks-per-node", "4", "--", *command.split()]) == 1
    assert capsys.readouterr().err.count(said) == 1
    assert not no_rank_starts


# Those in which ranks meet; of all others each rank would do all of the work, and write all files.
ON_RANKS = {
    "train", "finetune", "distill", "predict", "doctor", "plan calibrate", "study memory",
    "study scaling", "study comm", "study compatibility",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_launch_of_a_command_of_one_process_starts_no_rank(
    name: str,
    no_rank_starts: list[list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(REPOSITORY)
    line = shlex.split(EXAMPLES[name].rpartition(" -- ")[2])
    if name == "launch":
        line = ["mtlpar", "launch", "--", *line]
    status = main(["launch", "--ranks-per-node", "4", "--", *line])
    said = f"mtlpar {name} runs in one process, and was launched on 4 ranks: start it without"
    said_once = capsys.readouterr().err.count(said)
    if name in ON_RANKS:
        assert (status, len(no_rank_starts), said_once) == (0, 1, 0)
    else:
        assert (status, len(no_rank_starts), said_once) == (1, 0, 1)
    # One rank is one process.
    assert main(["launch", "--", *line]) == 0


def test_a_launch_of_a_command_with_an_unknown_argument_starts_no_rank(
    no_rank_starts: list[list[str]],
) -> None:
    with pytest.raises(SystemExit):
        main(["launch", "--", "mtlpar", "train", "--modle", "mtl"])
    assert not no_rank_starts


def test_ranks_start_the_mtlpar_that_launches_them_where_the_shell_knows_none(
    no_rank_starts: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # As after .venv/bin/mtlpar launch, in a shell without that environment.
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["launch", "--", "mtlpar", "train", "--model", "mtl"]) == 0
    assert no_rank_starts == [[sys.executable, "-m", "mtlpar", "train", "--model", "mtl"]]
