"""The rules and the table of stages say the same of every job, whatever the configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import REPOSITORY
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

from mtlpar.config import Config
from mtlpar.config.load import check_config
from mtlpar.flow.stage import Stage
from mtlpar.flow.table import ALL_SOURCES, MACHINE, STAGES
from mtlpar.report.items import ITEMS
from mtlpar.study.records import STUDIES

pytestmark = pytest.mark.workflow

TARGETS = frozenset({"all", *STUDIES})
# These only ask for others.
WITHOUT_STAGE = {"all", "tables", "figures"}


def changed() -> dict[str, Any]:
    """A configuration in which every input that not everybody has is there."""
    content: dict[str, Any] = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    model = content["models"]["mtl"]
    return {
        "extract": {"shares": 2},
        "pack": {"shares": 2},
        "normalize": {"reference_energies": {"qm7x": str(REPOSITORY / "config.yaml")}},
        "models": {"tuned": {**model, "start_from": {"model": "mtl"}}},
    }


@pytest.fixture(scope="module", params=["config.yaml", "changed"])
def jobs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, list[Any]]:
    """Every job of the DAG as Snakemake sees it, and the configuration."""
    folder = tmp_path_factory.mktemp("contracts")
    changes: dict[str, Any] = {} if request.param == "config.yaml" else changed()
    changes["paths"] = {"raw": str(folder / "raw"), "results": str(folder / "results")}
    with SnakemakeApi(OutputSettings(quiet=set())) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(config=changes),
            snakefile=REPOSITORY / "Snakefile",
            workdir=REPOSITORY,
        )
        dag = workflow.dag(DAGSettings(targets=set(TARGETS)))
        dag.summary()
        found = list(workflow._workflow.dag.jobs)
        config = check_config(workflow._workflow.globals["config"], where="config")
    return config, found


def stage_of(job: Any) -> tuple[Stage, str]:
    """The stage that a job runs, and its target."""
    name = job.rule.name
    for stage in ("report", "study"):
        if name in (ITEMS if stage == "report" else STUDIES):
            return STAGES[stage], name
    return STAGES[name], STAGES[name].target.format(**dict(job.wildcards.items()))


def paths(files: Any) -> list[Path]:
    return [Path(file) for file in files]


def test_every_job_reads_and_writes_what_the_table_says(jobs: tuple[Config, list[Any]]) -> None:
    config, found = jobs
    for job in found:
        if job.rule.name in WITHOUT_STAGE:
            continue
        stage, target = stage_of(job)
        inputs = [*stage.inputs(config, target), *stage.after(config, target)]
        assert sorted(paths(job.input)) == sorted(inputs), job
        written = [*stage.output_files(config, target), *stage.folders(config, target)]
        assert sorted(paths(job.output)) == sorted(written), job


def test_every_job_depends_on_what_the_table_says(jobs: tuple[Config, list[Any]]) -> None:
    config, found = jobs
    for job in found:
        if job.rule.name in WITHOUT_STAGE:
            continue
        stage, target = stage_of(job)
        assert job.params.settings == stage.settings(config, target), job
        assert job.params.code == stage.code(config, target), job
        # What else is in params only names the target on the command line.
        assert set(job.params.keys()) <= {"settings", "code", "item", "study", "options"}, job


def test_every_stage_has_a_rule_and_every_rule_a_stage(jobs: tuple[Config, list[Any]]) -> None:
    config, found = jobs
    names = {stage_of(job)[0].name for job in found if job.rule.name not in WITHOUT_STAGE}
    shares = {"extract": config.extract.shares, "pack": config.pack.shares}
    assert names == set(STAGES) - {f"{stage}_share" for stage in shares if shares[stage] == 1}
    for job in found:
        if job.rule.name not in WITHOUT_STAGE:
            stage, target = stage_of(job)
            assert stage.rule_of(target) == job.rule.name


def test_what_has_one_target_has_no_wildcards() -> None:
    single = {stage.name for stage in STAGES.values() if "{" not in stage.target}
    assert single == {"find_leaks", "doctor"}
    assert {STAGES[name].target for name in single} == {ALL_SOURCES, MACHINE}


def test_no_rule_names_a_file_of_its_own() -> None:
    # The indented lines below a keyword, and the settings and the code among the params.
    block = re.compile(r"^( *)(?:input|output):\n((?:\1 .*\n)+)|^ +(?:settings|code)=(.*)", re.M)
    for path in (REPOSITORY / "rules").glob("*.smk"):
        text = path.read_text()
        assert "workspace" not in text, path
        assert not re.search(r"[\"'](results|raw)/", text), path
        blocks = [match[2] or match[3] for match in block.finditer(text)]
        assert len(blocks) == len(re.findall(r"\b(?:input|output):|\b(?:settings|code)=", text))
        for told in blocks:
            assert re.search(r"STAGES\[|MADE\.|DRAWN\.|RECORD\.|flow\.rule_of", told), (path, told)


def test_no_command_holds_a_variable_of_a_loop() -> None:
    # Snakemake puts the command together when the job runs: a loop has long come to its end then,
    # and every rule of it would run the command of the last one. A dry run shows the right one.
    for path in (REPOSITORY / "rules").glob("*.smk"):
        text = path.read_text()
        commands = re.findall(r"^( *)shell:\n((?:\1 .*\n)+)", text, re.MULTILINE)
        assert len(commands) == text.count("shell:")
        for _, command in commands:
            told = re.sub(r"\"[^\"]*\"", "", re.sub(r"LAUNCH|flow\.launch_line", "", command))
            assert not re.search(r"\w", told), (path, command)
