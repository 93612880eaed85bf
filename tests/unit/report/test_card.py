"""The card of a model says what is in the file, and enough to train it again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from helpers import REPOSITORY
from training import BRANCHES, MODEL, TRAIN, run_alone

from mtlpar.cli import main
from mtlpar.config import load_config
from mtlpar.core.files import file_digest
from mtlpar.core.paths import Workspace
from mtlpar.core.records import write_content
from mtlpar.evaluate import stage as evaluate
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.flow.run_record import AttemptRecord, RunRecord
from mtlpar.model.file import load_model
from mtlpar.report.card import card

SOURCES = ("ani1x", "mptrj")


@pytest.fixture(scope="module")
def tested(five_sources: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    results = tmp_path_factory.mktemp("card")
    (results / "packed").symlink_to(five_sources.results / "packed")
    workspace = Workspace(raw=five_sources.raw, results=results)
    run_alone(workspace, {name: BRANCHES[name] for name in SOURCES}, epochs=1)
    evaluate.run("mtl", workspace=workspace, settings=EvaluateSettings(), sources=SOURCES, seed=0)
    return workspace


def text_of(workspace: Workspace, catalogue: Path = Path("none.csv")) -> str:
    path = workspace.model("mtl")
    return card(load_model(path), path, workspace=workspace, catalogue=catalogue)


def test_its_head_is_yaml_that_names_the_data(tested: Workspace) -> None:
    head = yaml.safe_load(text_of(tested).split("---")[1])
    assert head["library_name"] == "mtlpar"
    assert head["datasets"] == ["ANI1x", "MPTrj"]


def test_errors_are_those_of_the_metrics(tested: Workspace) -> None:
    text = text_of(tested)
    for source, title in (("ani1x", "ANI1x"), ("mptrj", "MPTrj")):
        metrics = json.loads(tested.metrics("mtl", source).read_text())
        row = next(line for line in text.splitlines() if re.match(rf"\| {title} \| \d", line))
        assert f"| {metrics['num_structures']} |" in row
        shown = float(row.split("|")[4].split()[0])
        assert shown == pytest.approx(metrics["force_mae_ev_per_angstrom"], rel=5e-3)


def test_its_uncertainty_is_that_of_the_metrics(tested: Workspace) -> None:
    text = text_of(tested).partition("## Uncertainty")[2].partition("## Not for")[0]
    for source, title in (("ani1x", "ANI1x"), ("mptrj", "MPTrj")):
        found = json.loads(tested.metrics("mtl", source).read_text())["uncertainty"]
        row = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert float(cells[2]) == pytest.approx(found["mean_ev_per_atom"], rel=5e-3)
        assert cells[3] == f"{found['coverage_90']:.0%}"
        # All elements occur together in train: there is nothing to tell apart.
        assert cells[5] == "–"
        known = load_model(tested.model("mtl")).uncertainty_of(source)
        assert known is not None
        assert f"{known.num_validation} structures, {known.num_groups} groups" in cells[1]


def test_the_configuration_can_be_rebuilt_from_it(tested: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text_of(tested).split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    found = load_config([path])
    assert found.sources == SOURCES
    assert found.seed == load_model(tested.model("mtl")).training["seed"]
    assert found.model_of("mtl") == MODEL
    # Weights of sources that the model never saw say nothing about it.
    weights = {name: TRAIN.source_weights[name] for name in SOURCES if name in TRAIN.source_weights}
    expected = TRAIN.model_copy(update={"epochs": 1, "source_weights": weights})
    assert found.train_of("mtl") == expected
    assert found.model_entry("mtl").branches == {name: (name,) for name in SOURCES}


def test_published_data_are_cited_only_for_their_own_level_of_theory(tested: Workspace) -> None:
    # The sample bears the names of published sets, and other labels.
    text = text_of(tested, REPOSITORY / "workflow/sources.csv")
    assert "softened Coulomb repulsion" in text
    assert "Smith et al." not in text
    assert "licence" not in text


def test_a_model_that_was_not_tested_says_so(
    tested: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(tested.model("mtl").read_bytes())
    assert main(["card", str(path), "--set", f"paths.results={tmp_path}"]) == 0
    assert "card.md" in capsys.readouterr().out
    text = (tmp_path / "card.md").read_text()
    assert "Not tested here" in text
    assert "Dynamics at constant energy" in text


def test_sources_without_a_test_are_named(tested: Workspace, tmp_path: Path) -> None:
    # As branches that a fine-tuning keeps: without the line their absence looks like an oversight.
    work = Workspace(raw=tested.raw, results=tmp_path)
    path = work.metrics("mtl", "ani1x")
    path.parent.mkdir(parents=True)
    path.write_bytes(tested.metrics("mtl", "ani1x").read_bytes())
    model = tested.model("mtl")
    text = card(load_model(model), model, workspace=work, catalogue=Path("none.csv"))
    assert "| ANI1x | " in text.partition("## Errors")[2].partition("## Uncertainty")[0]
    assert "\nNot tested here: MPTrj.\n" in text


@pytest.mark.parametrize("in_place", ["folder", "broken link"])
def test_what_lies_where_errors_should_is_no_test_unmade(
    tested: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], in_place: str
) -> None:
    # Neither is a file, so a look for files alone would write "Not tested here" over it.
    path = Workspace(raw=tested.raw, results=tmp_path).metrics("mtl", "ani1x")
    path.parent.mkdir(parents=True)
    path.mkdir() if in_place == "folder" else path.symlink_to("gone.json")
    arguments = ["card", str(tested.model("mtl")), "--out", str(tmp_path / "card.md")]
    assert main([*arguments, "--set", f"paths.results={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert "run mtlpar evaluate --model mtl" in error
    assert not (tmp_path / "card.md").exists()


def test_refusals_of_the_model_are_called_errors(tested: Workspace) -> None:
    # Of a model that is blind to charge and spin; see `SavedModel.refusal`.
    text = text_of(tested).partition("## Not for")[2]
    assert "charged or open-shell structures: both are errors" in text


def test_errors_of_another_model_of_that_name_are_left_out(
    tested: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Trained again with another seed and not tested again, or copied from elsewhere.
    model, results = tested.model("mtl"), tmp_path / "results"
    results.mkdir()
    (results / "metrics").symlink_to(tested.results / "metrics")
    work = Workspace(raw=tested.raw, results=results)
    record = {
        "stage": "evaluate",
        "target": "mtl",
        "outputs": {str(path): file_digest(path) for path in [work.metrics("mtl", "ani1x")]},
        "inputs": {str(work.model("mtl")): file_digest(model)},
        "config_digest": "0" * 64,
        "code_digest": "",
        "config": "",
        "versions": {},
        "machine": {},
        "attempts": [AttemptRecord(
            started=0.0, seconds=1.0, host="", job="", nodes=1, ranks=1, outcome="done"
        ).plain()],
        "node_hours": 0.0,
    }  # fmt: skip
    write_content(results / "provenance" / "evaluate" / "mtl.json", RunRecord, record)
    arguments = ["card", str(model), "--out", str(tmp_path / "card.md")]
    arguments += ["--set", f"paths.results={results}"]
    assert main(arguments) == 0
    assert "Mean absolute errors" in (tmp_path / "card.md").read_text()
    assert capsys.readouterr().err == ""
    record["inputs"] = {str(work.model("mtl")): "0" * 64}
    write_content(results / "provenance" / "evaluate" / "mtl.json", RunRecord, record)
    assert main(arguments) == 0
    text = (tmp_path / "card.md").read_text()
    assert "Not tested here" in text
    assert "errors in 90 %" in text
    assert "are of another model file than" in capsys.readouterr().err
