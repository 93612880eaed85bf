"""One command from a model file and structures to a better model, and what it leaves alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write
from helpers import make_structures
from warm import warm_python

from mtlpar.cli import main
from mtlpar.core.paths import Workspace
from mtlpar.model.file import load_model
from mtlpar.model.saved import SavedModel

SHORT = ["--set", "train.epochs=2", "--set", "custom_sources.own.group_key=group"]
TUNED = "finetune/results/models/tuned/model.pt"
FRACTIONS = ["--set", "normalize.val_fraction=0.2", "--set", "normalize.test_fraction=0.2"]


def molecules(*, strength: float, offset: float) -> Iterator[Atoms]:
    """Structures at a level of theory like that of one source, but for an offset per atom."""
    batch = make_structures(40, seed=99, strength=strength)
    bounds = batch.offsets
    for index in range(len(batch)):
        atoms = slice(bounds[index], bounds[index + 1])
        frame = Atoms(batch.atomic_numbers[atoms], batch.positions[atoms])
        frame.info["energy"] = float(batch.energy[index]) + offset * len(frame)
        frame.info["group"] = f"molecule {index // 2}"
        frame.arrays["forces"] = batch.forces[atoms].astype(np.float64)
        yield frame


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with structures whose forces are those of the source qm7x."""
    write(tmp_path / "mine.extxyz", list(molecules(strength=2.0, offset=100.0)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finetune(start: Workspace, *options: str) -> int:
    arguments = [str(start.model("mtl")), "mine.extxyz", "--level", "mine/level"]
    return main(["finetune", *arguments, *SHORT, *FRACTIONS, *options])


def made_in(results: Path) -> list[Path]:
    """Files of a folder of results but the records of downloads, which are always run."""
    files = (path for path in results.rglob("*") if path.is_file())
    return sorted(path for path in files if path.parent != results / "provenance/download")


def same(one: SavedModel, other: SavedModel, branch: str) -> bool:
    states = [model.network.heads[branch].state_dict() for model in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_one_command_ends_with_a_model_and_errors_before_and_after(
    start: Workspace, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(start, "--mode", "heads") == 0
    shown = capsys.readouterr().out
    # The data have the forces of qm7x: it predicts them best, however far its energies are off.
    assert "* qm7x" in shown
    assert "mean absolute errors on test" in shown
    before, after = (
        load_model(start.model("mtl")),
        load_model(here / TUNED),
    )
    assert after.level_of_theory["own"] == "mine/level"
    assert set(after.sources) == {"own", "ani1x", "qm7x", "mptrj"}
    for branch in before.branches:
        assert same(before, after, branch)
        assert after.references[branch] == before.references[branch]
    encoder = before.network.encoder.state_dict()
    assert all(
        torch.equal(tensor, encoder[name])
        for name, tensor in after.network.encoder.state_dict().items()
    )


def test_the_same_command_again_has_nothing_to_do(start: Workspace, here: Path) -> None:
    assert finetune(start) == 0
    files = made_in(here / "finetune/results")
    times = [path.stat().st_mtime_ns for path in files]
    assert finetune(start) == 0
    assert [path.stat().st_mtime_ns for path in files] == times


def test_data_that_were_corrected_are_read_again(start: Workspace, here: Path) -> None:
    # One digit: nothing but the content tells the file from the one before.
    assert finetune(start, "--explain") == 0
    packed = here / "finetune/results/packed/own/train.manifest.json"
    before = json.loads(packed.read_text())["training_digest"]
    path = here / "mine.extxyz"
    corrected = re.sub(r"(energy=-?[0-9]*)[0-9]\.", r"\g<1>5.", path.read_text())
    assert len(corrected) == path.stat().st_size
    assert corrected != path.read_text()
    path.write_text(corrected)
    assert finetune(start, "--explain") == 0
    assert json.loads(packed.read_text())["training_digest"] != before


@pytest.mark.parametrize(
    ("mode", "moves", "becomes"),
    [
        ("heads", "         0 of 3,900", "stays: it predicts the same to the last bit"),
        ("full", "     3,900 of 3,900", "weights stay; what it predicts drifts with the encoder"),
    ],
)
def test_explain_says_what_becomes_of_each_branch_and_trains_nothing(
    start: Workspace,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    mode: str,
    moves: str,
    becomes: str,
) -> None:
    assert finetune(start, "--mode", mode, "--branch", "mptrj", "--explain") == 0
    shown = capsys.readouterr().out
    assert "* mptrj" in shown
    assert f"  encoder              {moves} parameters move" in shown
    assert "parameters move; new, starts from mptrj, fed by own" in shown
    for branch in ("ani1x", "qm7x", "mptrj"):
        assert f"  {branch:20} {becomes}" in shown
    assert "replay: 0% of" in shown
    assert not (here / TUNED).exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), ", at 0.3 of the learning rate"),
        (("--mode", "last:1"), ", at 0.3 of the learning rate"),
        # They cannot take it far, and what does not move has no rate.
        (("--mode", "lora:2"), ""),
        (("--mode", "heads"), ""),
        # At 0.3 forces that become gradients have a fifth larger errors.
        (("--set", "models.tuned.model.head.forces=conservative"), ""),
        # Who asks for a rate gets it.
        (("--set", "train.encoder_rate=0.5"), ", at 0.5 of the learning rate"),
        (("--set", "models.tuned.train.encoder_rate=1"), ""),
    ],
)
def test_an_encoder_that_moves_as_a_whole_moves_slower_than_branches(
    start: Workspace,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    said: str,
) -> None:
    assert finetune(start, "--branch", "mptrj", "--explain", *options) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"\n  encoder +[0-9,]+ of [0-9,]+ parameters move{said}\n", shown)


def test_explain_says_which_branches_replay_holds(
    start: Workspace, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packs = str(start.results / "packed")
    assert finetune(start, "--replay", "packs", "--packs", packs, "--explain") == 0
    shown = capsys.readouterr().out
    for branch in ("ani1x", "qm7x", "mptrj"):
        assert (
            f"  {branch:20} held still; its data hold the encoder to it, fed by {branch}\n" in shown
        )
    assert "weights stay" not in shown
    # 20 new structures, and half as many of each source in an epoch, however large their packs.
    assert "replay: 60% of the 50 structures of an epoch (ani1x 10, qm7x 10, mptrj 10)" in shown


@pytest.mark.parametrize("replay", ["packs", "pseudo:12"])
def test_replay_holds_the_other_branches_while_the_encoder_moves(
    start: Workspace, here: Path, replay: str, capsys: pytest.CaptureFixture[str]
) -> None:
    packs = str(start.results / "packed")
    assert finetune(start, "--replay", replay, "--packs", packs) == 0
    shown = capsys.readouterr().out
    before, after = (
        load_model(start.model("mtl")),
        load_model(here / TUNED),
    )
    sources = {"ani1x", "qm7x", "mptrj"}
    expected = {f"replay_{source}" for source in sources} if replay != "packs" else set()
    # A branch goes on answering for the source that it learned, with its references.
    assert set(after.sources) == {"own", *sources, *expected}
    for source in sources:
        assert after.branch_of(source) == source
        assert after.references[source].energies_ev == before.references[source].energies_ev
        assert same(before, after, source)
    encoders = (one.network.encoder.state_dict() for one in (before, after))
    assert not all(map(torch.equal, *(one.values() for one in encoders)))
    assert "no other branch is kept" not in shown
    assert "other branches were held by their data" in shown


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--name", "qm7x"], "--name qm7x: the model has a source or branch of that name"),
        (["--replay", "pseudo"], "expected none, packs or pseudo:N"),
        (["--replay", "pseudo:2"], "--replay pseudo:2: expected 3 structures at least, one each"),
        (["--mode", "head"], "such as full, heads, last:2, lora:8, got 'head' (--mode)"),
        (["--name", "my data"], "'my data' must be an identifier (letters, digits, _) (--name)"),
        (["--level", ""], "--level` is empty: is a variable of the shell not set?"),
        (["--branch", "oc20"], "--branch oc20: the model has ani1x, qm7x, mptrj"),
        (["--replay", "packs", "--packs", "nowhere"], "nowhere has no packs of ani1x, qm7x, mptrj"),
        # It would cost time in every step and change nothing.
        (["--mode", "heads", "--replay", "pseudo:9"], "there is nothing to hold; leave --replay"),
        # What the command relies on as it wrote it; a block that is replaced takes it along.
        (["--set", "models.tuned.start_from=null"], "decides about models.tuned.start_from.model"),
        (["--set", "models.tuned.branches={new: [own]}"], "name the branch with --name"),
        (["--set", "custom_sources.own={group_key: group}"], "name the files as DATA"),
        (["--set", "paths.results=/scratch"], "name the folder with --out"),
        # Of a model that starts from a file the global architecture says nothing.
        (["--set", "model.encoder.width=5"], "and models.tuned.model has what may differ"),
        (
            ["--set", "models.tuned.start_from.branches={own: oc20}"],
            "branch own is to start from 'oc20'; the model to start from has ani1x, qm7x, mptrj",
        ),
        (["--set", "train.epoch=3"], "train.epoch: unknown key; did you mean 'epochs'?"),
        (["--mode", "last:9"], "expected at most last:"),
        # No matrix is as large: the encoder would stay as it is, unsaid.
        (["--mode", "lora:1000"], "mode lora:1000: the encoder's largest matrices have rank"),
        (
            ["--set", "models.tuned.model.encoder.width=5"],
            "of the same architecture: encoder.width",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    start: Workspace,
    here: Path,
    options: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert finetune(start, *options) == 1
    assert told in capsys.readouterr().err
    assert not (here / TUNED).exists()


def test_packs_that_are_not_there_are_missed_before_data_are_prepared(
    start: Workspace, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(start, "--replay", "packs", "--packs", "nowhere") == 1
    assert "nowhere has no packs" in capsys.readouterr().err
    assert not (here / "finetune").exists()


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("split", ["groups", "frames"])
def test_pseudo_labels_of_few_structures_are_in_all_splits(
    start: Workspace, here: Path, split: str, count: int
) -> None:
    # Branches know the elements of three molecules alone. What they label would be a few groups,
    # all of which may lie in one split.
    frames = list(molecules(strength=2.0, offset=100.0))
    for frame in frames[6:]:
        frame.numbers[0] = 10
    write(here / "mine.extxyz", frames)
    options = ("--replay", f"pseudo:{count}", "--set", f"normalize.split={split}", "--explain")
    assert finetune(start, *options) == 0
    ledger = json.loads((here / "finetune/results/ledger/replay_mptrj.json").read_text())
    assert (ledger["val"], ledger["test"]) == (max(1, count // 10), max(1, count // 10))
    assert not ledger["leaky"]


def test_charges_that_a_model_cannot_see_are_told(
    start: Workspace, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Trained on them unsaid, it would refuse to predict what it was trained on.
    frames = list(molecules(strength=2.0, offset=100.0))
    for frame in frames:
        frame.info["charge"] = 1
    write(here / "mine.extxyz", frames)
    told = "own: 100.0% of the training structures are charged or open-shell"
    assert finetune(start, "--mode", "heads", "--explain") == 0
    assert told in capsys.readouterr().out
    assert finetune(start, "--mode", "heads") == 0
    assert told in capsys.readouterr().err


def test_a_start_that_training_would_refuse_is_refused_when_asked_to_explain(
    start: Workspace, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # In Hartree all labels are 27 times too small for any branch.
    frames = list(molecules(strength=2.0, offset=100.0))
    for frame in frames:
        frame.info["energy"] /= 27.2114
        frame.arrays["forces"] /= 27.2114
    write(here / "mine.extxyz", frames)
    assert finetune(start, "--explain") == 1
    shown = capsys.readouterr()
    assert "warning: forces are 0.0" in shown.out
    assert "is a far worse start than predicting the mean" in shown.err


@pytest.mark.parametrize("branch", ["ani1x", None])
def test_the_branch_to_start_from_may_be_set_to_another_or_none(
    start: Workspace, here: Path, branch: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    # Errors before training were those of the best branch, whatever was trained.
    given = f"models.tuned.start_from.branches={{{f'own: {branch}' if branch else ''}}}"
    assert finetune(start, "--set", given, "--explain") == 0
    shown = capsys.readouterr().out
    assert f"starts from {branch or 'random weights'}, fed by own" in shown
    assert re.findall(r"^\* (\w+)", shown, re.MULTILINE) == ([branch] if branch else [])
    assert finetune(start, "--set", given) == 0
    before = re.search(r"^  forces \(eV/Å\) +(\S+)", capsys.readouterr().out, re.MULTILINE)
    assert before is not None
    if branch is None:
        assert before[1] == "-"
        return
    assert finetune(start, "--branch", branch, "--out", "named") == 0
    named = re.search(r"^  forces \(eV/Å\) +(\S+)", capsys.readouterr().out, re.MULTILINE)
    assert named is not None
    assert before[1] == named[1]


def test_a_model_that_starts_from_a_fine_tuned_one_has_its_architecture(
    start: Workspace, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That of the file which that one started from, and not the default of the configuration.
    assert finetune(start) == 0
    monkeypatch.chdir(here / "finetune")
    again = "models.again={branches: {own: [own]}, start_from: {model: tuned, mode: heads}}"
    assert main(["train", "--model", "again", "--set", again]) == 0
    first, second = (
        load_model(Path("results/models", one, "model.pt")) for one in ("tuned", "again")
    )
    assert second.settings == first.settings


def test_a_folder_is_no_file_with_structures(
    start: Workspace, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "runs").mkdir()
    assert main(["finetune", str(start.model("mtl")), "runs", "--level", "mine/level"]) == 1
    assert "runs: expected files, got a folder; name the files in it" in capsys.readouterr().err
    # One could not name the files in a pack.
    (here / "train.bp").mkdir()
    assert main(["finetune", str(start.model("mtl")), "train.bp", "--level", "mine/level"]) == 1
    assert "train.bp: expected files, got a pack; write its struct" in capsys.readouterr().err
    assert not (here / "finetune").exists()


def test_the_file_that_is_named_is_taken_and_no_other(start: Workspace, here: Path) -> None:
    # As a pattern its name means mine1.extxyz; a folder of the source's name has another file.
    (here / "mine.extxyz").rename(here / "mine[1].extxyz")
    (here / "own").mkdir()
    for name in ("mine1.extxyz", "own/mine[1].extxyz"):
        write(here / name, list(molecules(strength=1.0, offset=0.0))[:5])
    arguments = [str(start.model("mtl")), "mine[1].extxyz", "--level", "mine/level", "--explain"]
    assert main(["finetune", *arguments, *SHORT, *FRACTIONS]) == 0
    manifest = json.loads((here / "finetune/results/extracted/own/manifest.json").read_text())
    assert [(file["name"], file["rows"]) for file in manifest["files"]] == [("mine[1].extxyz", 40)]


@pytest.mark.parametrize("changed", [False, True])
def test_a_configuration_of_somebody_else_is_not_written_over(
    start: Workspace, here: Path, capsys: pytest.CaptureFixture[str], changed: bool
) -> None:
    path = here / "project/config.yaml"
    if changed:
        assert finetune(start, "--explain", "--out", "project") == 0
        text = path.read_text().replace("epochs: 2", "epochs: 3")
    else:
        path.parent.mkdir()
        text = "sources: [ani1x]  # months of work\n"
    path.write_text(text)
    assert finetune(start, "--explain", "--out", "project") == 1
    assert path.read_text() == text
    told = capsys.readouterr().err
    assert ("changed by hand" if changed else "is not from mtlpar finetune") in told


@pytest.mark.mpi
def test_of_several_ranks_the_first_alone_prints_and_prepares(start: Workspace, here: Path) -> None:
    data = [str(start.model("mtl")), "mine.extxyz", "--level", "mine/level", *SHORT, *FRACTIONS]
    done = launched("finetune", *data)
    assert done.returncode == 0, done.stderr
    for table in ("start                 energy", "mean absolute errors on test", "model: "):
        assert done.stdout.count(table) == 1
    # Not the one that happened to be there first, whose notes nobody would see.
    attempts = (here / "finetune/results/provenance").rglob("*.attempts.jsonl")
    assert [len(path.read_text().splitlines()) for path in attempts] == [1] * 6
    assert "evaluate --model tuned" in done.stderr
    assert "rank 1/2" not in done.stderr


@pytest.mark.mpi
def test_a_mistake_that_the_first_rank_finds_is_told_once(start: Workspace, here: Path) -> None:
    Path("mine.extxyz").write_text("no structures\n")
    done = launched("finetune", str(start.model("mtl")), "mine.extxyz", "--level", "mine/level")
    assert done.returncode == 1
    assert done.stderr.count(" error: in ") == 1, done.stderr
    assert "mine.extxyz" in done.stderr


def launched(*arguments: str) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "mtlpar", "launch", "--ranks-per-node", "2", "--"]
    line = [*launch, *warm_python(), "-m", "mtlpar", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
