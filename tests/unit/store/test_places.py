"""A pack, a part and references are believed for what they are, not for where they lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import make_structures, make_workspace, write_extracted
from training import run_alone

from mtlpar.cli import main
from mtlpar.core.paths import Workspace
from mtlpar.evaluate import stage as evaluate
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.normalize import leaks
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings

SIZES = {"ani1x": 40, "qm7x": 40}
BRANCHES = {source: (source,) for source in SIZES}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("made"), SIZES)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The same structures, split otherwise: as a backup of before settings changed."""
    workspace = make_workspace(tmp_path_factory.mktemp("other"), SIZES)
    for source in SIZES:
        settings = NormalizeSettings(val_fraction=0.3, test_fraction=0.3)
        normalize.run(source, workspace=workspace, settings=settings, seed=0)
        pack.run(source, workspace=workspace, settings=PackSettings(), seed=0)
    return workspace


@pytest.fixture
def workspace(made: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(made.results, tmp_path / "results")
    return Workspace(raw=tmp_path / "raw", results=tmp_path / "results")


def _put(path: Path, place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
        shutil.copytree(path, place)
    else:
        shutil.copyfile(path, place)


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_refuses_the_pack_of_another_split(workspace: Workspace, split: str) -> None:
    # It trained on the test set: the checksums of a folder say nothing of where it lies.
    _put(workspace.pack("qm7x", "test"), workspace.pack("qm7x", split))
    with pytest.raises(ValueError, match=rf"{split}\.manifest\.json .* split is '{split}', exp"):
        run_alone(workspace, BRANCHES, epochs=1)
    # With its manifest it is a whole pack, of the wrong split.
    _put(workspace.pack_manifest("qm7x", "test"), workspace.pack_manifest("qm7x", split))
    with pytest.raises(ValueError, match=rf"split is 'test', expected '{split}': it belongs else"):
        run_alone(workspace, BRANCHES, epochs=1)


def test_training_refuses_the_pack_of_another_source(workspace: Workspace) -> None:
    folder = workspace.pack("qm7x", "train").parent
    _put(workspace.pack("ani1x", "train").parent, folder)
    with pytest.raises(ValueError, match="source is 'ani1x', expected 'qm7x': it belongs elsewhe"):
        run_alone(workspace, BRANCHES, epochs=1)


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_refuses_a_pack_of_other_splits(
    workspace: Workspace, other: Workspace, split: str
) -> None:
    # Half of a restored backup: it trained, under the fingerprint of the manifest.
    _put(other.pack("qm7x", split), workspace.pack("qm7x", split))
    with pytest.raises(ValueError, match=r"qm7x/\w+\.manifest\.json .* beside it differ"):
        run_alone(workspace, BRANCHES, epochs=1)
    _put(other.pack_manifest("qm7x", split), workspace.pack_manifest("qm7x", split))
    with pytest.raises(ValueError, match=r"train\.bp and .*val\.bp were made of different splits"):
        run_alone(workspace, BRANCHES, epochs=1)


def test_a_pack_without_manifest_is_no_input_of_a_training(workspace: Workspace) -> None:
    workspace.pack_manifest("qm7x", "val").unlink()
    with pytest.raises(ValueError, match=r"val\.manifest\.json is missing"):
        run_alone(workspace, BRANCHES, epochs=1)


def test_evaluate_refuses_the_training_set(workspace: Workspace) -> None:
    run_alone(workspace, BRANCHES, epochs=1)
    _put(workspace.pack("qm7x", "train"), workspace.pack("qm7x", "test"))
    with pytest.raises(ValueError, match=r"test\.manifest\.json and the test\.bp beside it diff"):
        evaluate.run(
            "mtl", workspace=workspace, settings=EvaluateSettings(), sources=list(SIZES), seed=0
        )


@pytest.mark.parametrize("command", ["inspect", "export"])
def test_commands_say_that_a_pack_is_not_the_one_of_its_manifest(
    workspace: Workspace, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workspace.pack("qm7x", "train")
    _put(workspace.pack("qm7x", "test"), path)
    out = [str(path.with_name("out.extxyz"))] if command == "export" else []
    assert main([command, str(path), *out]) == 1
    assert "split is 'train', expected 'test': it belongs elsewhere" in capsys.readouterr().err
    # A pack alone, such as one that somebody sent, is read as ever.
    workspace.pack_manifest("qm7x", "train").unlink()
    assert main([command, str(path), *out]) == 0


def _of_ani1x(workspace: Workspace, _: Workspace) -> None:
    _put(workspace.references("ani1x"), workspace.references("qm7x"))


def _of_other_splits(workspace: Workspace, other: Workspace) -> None:
    _put(other.references("qm7x"), workspace.references("qm7x"))


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (_of_ani1x, "source is 'ani1x', expected 'qm7x'"),
        # Fitted on what is in test here.
        (_of_other_splits, "train_digest is "),
    ],
)
def test_references_of_something_else_are_not_packed(
    workspace: Workspace,
    other: Workspace,
    swap: Callable[[Workspace, Workspace], None],
    message: str,
) -> None:
    swap(workspace, other)
    with pytest.raises(ValueError, match=rf"references\.json: {message}.*normalize again"):
        pack.run("qm7x", workspace=workspace, settings=PackSettings(), seed=0)


def test_a_ledger_of_another_source_is_refused(workspace: Workspace) -> None:
    from mtlpar.core.ledger import Ledger

    _put(workspace.ledger("ani1x"), workspace.ledger("qm7x"))
    with pytest.raises(ValueError, match=r"qm7x\.json: source is 'ani1x', expected 'qm7x'"):
        Ledger.read(workspace.ledger("qm7x"))


@pytest.mark.parametrize("stage", ["normalize", "leaks", "pack"])
def test_parts_that_changed_places_are_refused(tmp_path: Path, stage: str) -> None:
    # Of one length each: rows would get each other's splits and files.
    workspace = Workspace(raw=tmp_path / "raw", results=tmp_path / "results")
    batches = [make_structures(30, seed=seed, atoms=(4, 5)) for seed in (1, 2)]
    write_extracted(workspace, "qm7x", *batches)
    settings = NormalizeSettings(val_fraction=0.2, test_fraction=0.2)
    normalize.run("qm7x", workspace=workspace, settings=settings, seed=0)
    first, second = (
        workspace.extracted_folder("qm7x") / f"part-0000{index}.bp" for index in (0, 1)
    )
    first.rename(tmp_path / "first")
    second.rename(first)
    (tmp_path / "first").rename(second)
    run = {
        "normalize": lambda: normalize.run("qm7x", workspace=workspace, settings=settings, seed=0),
        "leaks": lambda: leaks.run(["qm7x"], workspace=workspace),
        "pack": lambda: pack.run("qm7x", workspace=workspace, settings=PackSettings(), seed=0),
    }
    with pytest.raises(ValueError, match=r"part-00000\.bp is not the part of that name.*again"):
        run[stage]()


def test_a_manifest_of_another_source_is_refused(workspace: Workspace) -> None:
    content = json.loads(workspace.extracted_manifest("qm7x").read_text())
    workspace.extracted_manifest("qm7x").write_text(json.dumps({**content, "source": "ani1x"}))
    settings = NormalizeSettings()
    with pytest.raises(ValueError, match=r"manifest\.json: source is 'ani1x', expected 'qm7x'"):
        normalize.run("qm7x", workspace=workspace, settings=settings, seed=0)
