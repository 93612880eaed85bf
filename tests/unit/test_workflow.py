"""What the Snakefile relies on, without Snakemake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from helpers import REPOSITORY

from mtlpar import workflow
from mtlpar.config import load_config


@pytest.fixture(scope="module")
def content() -> dict[str, object]:
    return yaml.safe_load((REPOSITORY / "config.yaml").read_text())


def test_code_digest_follows_imports_to_the_end() -> None:
    closure = workflow._closure("mtlpar.train.stage")
    # Directly, through several modules, and of a lower layer.
    assert {"mtlpar.train.trainer", "mtlpar.model.encoder", "mtlpar.core.fields"} <= closure
    # Neither later stages nor the config, whose keys belong to other stages too.
    assert not any(name.startswith(("mtlpar.evaluate", "mtlpar.config")) for name in closure)


def test_settings_of_one_stage_do_not_hold_those_of_another(content: dict[str, object]) -> None:
    before = workflow.read_config(content)
    after = workflow.read_config({**content, "train__epochs": 99})
    assert workflow.rule_settings(before.pack) == workflow.rule_settings(after.pack)
    assert workflow.train_settings(before, "mtl") != workflow.train_settings(after, "mtl")
    json.loads(workflow.train_settings(before, "mtl"))


def test_a_download_depends_on_what_the_catalogue_says_of_its_source(
    content: dict[str, object], tmp_path: Path
) -> None:
    table = tmp_path / "sources.csv"
    text = (REPOSITORY / "workflow/sources.csv").read_text()

    def fingerprint(catalogue: str, **download: object) -> str:
        table.write_text(catalogue)
        settings = {"mirrors": ["catalogue"], **download}
        config = {**content, "paths__catalogue": str(table), "download": settings}
        return workflow.raw_fingerprint(workflow.read_config(config), "qm7x")

    before = fingerprint(text)
    # More patience, a nearer copy, another source's file: the same bytes come.
    assert fingerprint(text, retries=99, mirrors=["/near", "catalogue"]) == before
    assert fingerprint(text.replace("fe0ba061", "00000000")) == before
    assert fingerprint(text.replace("b50c6a5d", "00000000")) != before


def test_the_resolved_config_is_the_config(content: dict[str, object], tmp_path: Path) -> None:
    config = workflow.read_config({**content, "train__epochs": 99})
    path = workflow.write_resolved(config, tmp_path)
    assert load_config([path]) == config
    assert workflow.write_resolved(workflow.read_config(content), tmp_path) != path


def test_a_model_that_could_not_be_tested_everywhere_is_refused(
    content: dict[str, object],
) -> None:
    models = {"pair": {"branches": {"a": ["ani1x"], "b": ["qm7x"]}}}
    with pytest.raises(ValueError, match=r"models\.pair: has 2 branches but none for mptrj"):
        workflow.read_config({**content, "models": models})


def test_every_report_item_has_its_caption(content: dict[str, object]) -> None:
    for item in workflow.report_items(workflow.read_config(content)):
        assert (REPOSITORY / "workflow" / "report" / f"{item.name}.rst").is_file()


def test_files_that_snakemake_merged_are_looked_at_themselves(
    content: dict[str, object], tmp_path: Path
) -> None:
    # The merged configuration has the seed 8, as good as any.
    mine = tmp_path / "mine.yaml"
    mine.write_text("seed: 010\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: seed: YAML reads 010 as 8"):
        workflow.read_config({**content, "seed": 8}, [REPOSITORY / "config.yaml", mine])
