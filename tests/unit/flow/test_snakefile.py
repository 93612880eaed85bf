"""What the Snakefile relies on, without Snakemake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from helpers import REPOSITORY

from mtlpar.config import load_config
from mtlpar.flow import digest, snakefile
from mtlpar.flow.resolved import write_resolved
from mtlpar.flow.table import STAGES
from mtlpar.report.items import ITEMS


@pytest.fixture(scope="module")
def content() -> dict[str, object]:
    return yaml.safe_load((REPOSITORY / "config.yaml").read_text())


def test_code_digest_follows_imports_to_the_end() -> None:
    closure = digest._closure("mtlpar.train.stage")
    # Directly, through several modules, and of a lower layer.
    assert {"mtlpar.train.trainer", "mtlpar.model.encoder", "mtlpar.core.fields"} <= closure
    # Neither later stages nor the config, whose keys belong to other stages too.
    assert not any(name.startswith(("mtlpar.evaluate", "mtlpar.config")) for name in closure)


def test_settings_of_one_stage_do_not_hold_those_of_another(content: dict[str, object]) -> None:
    before = snakefile.read_config(content)
    after = snakefile.read_config({**content, "train__epochs": 99})
    assert STAGES["pack"].settings(before, "qm7x") == STAGES["pack"].settings(after, "qm7x")
    assert STAGES["train"].settings(before, "mtl") != STAGES["train"].settings(after, "mtl")
    json.loads(STAGES["train"].settings(before, "mtl"))


def test_a_download_depends_on_what_the_catalogue_says_of_its_source(
    content: dict[str, object], tmp_path: Path
) -> None:
    table = tmp_path / "sources.csv"
    text = (REPOSITORY / "workflow/sources.csv").read_text()

    def fingerprint(catalogue: str, **download: object) -> str:
        table.write_text(catalogue)
        settings = {"mirrors": ["catalogue"], **download}
        config = {**content, "paths__catalogue": str(table), "download": settings}
        return STAGES["download"].settings(snakefile.read_config(config), "qm7x")

    before = fingerprint(text)
    # More patience, a nearer copy, another source's file: the same bytes come.
    assert fingerprint(text, retries=99, mirrors=["/near", "catalogue"]) == before
    assert fingerprint(text.replace("fe0ba061", "00000000")) == before
    assert fingerprint(text.replace("b50c6a5d", "00000000")) != before


def test_the_resolved_config_is_the_config(content: dict[str, object], tmp_path: Path) -> None:
    config = snakefile.read_config({**content, "train__epochs": 99})
    path = write_resolved(config, tmp_path)
    assert load_config([path]) == config
    assert write_resolved(snakefile.read_config(content), tmp_path) != path


def test_models_need_no_branch_for_every_source(content: dict[str, object]) -> None:
    models = {"pair": {"branches": {"a": ["ani1x"], "b": ["qm7x"]}}}
    assert snakefile.read_config({**content, "models": models}).models["pair"].sources


def test_every_report_item_has_its_caption() -> None:
    for name in ITEMS:
        assert (REPOSITORY / "workflow" / "report" / f"{name}.rst").is_file()


def test_files_that_snakemake_merged_are_looked_at_themselves(
    content: dict[str, object], tmp_path: Path
) -> None:
    # The merged configuration has the seed 8, as good as any.
    mine = tmp_path / "mine.yaml"
    mine.write_text("seed: 010\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: seed: YAML reads 010 as 8"):
        snakefile.read_config({**content, "seed": 8}, [REPOSITORY / "config.yaml", mine])
