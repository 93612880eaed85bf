"""What the Snakefile relies on, without Snakemake."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import REPOSITORY

from mtlpar.config import Config, load_config
from mtlpar.config.resolved import write_resolved
from mtlpar.flow import digest, snakefile
from mtlpar.flow.table import STAGES
from mtlpar.report.items import ITEMS


def config_with(*overrides: str) -> Config:
    return load_config([REPOSITORY / "config.yaml"], overrides)


def test_code_digest_follows_imports_to_the_end() -> None:
    closure = digest._closure("mtlpar.train.stage")
    # Directly, through several modules, and of a lower layer.
    assert {"mtlpar.train.trainer", "mtlpar.model.encoder", "mtlpar.core.fields"} <= closure
    # Neither later stages nor the config, whose keys belong to other stages too.
    assert not any(name.startswith(("mtlpar.evaluate", "mtlpar.config")) for name in closure)


def test_code_that_an_earlier_process_parsed_is_not_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tests may run where no bytecode is written.
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    store, source = tmp_path / "seen.json", b"import mtlpar.core.fields\nx = 1\n"
    first = digest._Seen(store)
    code = first.code(source)
    assert code.imports == ("mtlpar.core.fields",)
    first.save()
    with monkeypatch.context() as patch:
        patch.setattr(digest, "_parse", lambda _: pytest.fail("parsed again"))
        assert digest._Seen(store).code(source) == code
    # Another file, and one that was edited by hand, are.
    assert digest._Seen(store).code(b"x = 2\n").digest != code.digest
    store.write_text(store.read_text().replace(code.digest, "0" * 64))
    assert digest._Seen(store).code(source) == code


def test_comments_and_docstrings_change_no_digest_and_code_does() -> None:
    def of(text: str) -> str:
        return digest._parse(text.encode()).digest

    plain = of("def f(x):\n    return x + 1\n")
    assert of('# Why.\ndef f( x ):\n    """What."""\n\n    return x + 1\n') == plain
    assert of("def f(x):\n    return x + 2\n") != plain


def test_settings_of_one_stage_do_not_hold_those_of_another() -> None:
    before, after = config_with(), config_with("train.epochs=99")
    assert STAGES["pack"].settings(before, "qm7x") == STAGES["pack"].settings(after, "qm7x")
    assert STAGES["train"].settings(before, "mtl") != STAGES["train"].settings(after, "mtl")
    json.loads(STAGES["train"].settings(before, "mtl"))


def test_a_download_depends_on_what_the_catalogue_says_of_its_source(tmp_path: Path) -> None:
    table = tmp_path / "sources.csv"
    text = (REPOSITORY / "workflow/sources.csv").read_text()

    def fingerprint(catalogue: str, **download: object) -> str:
        table.write_text(catalogue)
        settings = json.dumps({"mirrors": ["catalogue"], **download})
        config = config_with(f"paths.catalogue={table}", f"download={settings}")
        return STAGES["download"].settings(config, "qm7x")

    before = fingerprint(text)
    # More patience, a nearer copy, another source's file: the same bytes come.
    assert fingerprint(text, retries=99, mirrors=["/near", "catalogue"]) == before
    assert fingerprint(text.replace("fe0ba061", "00000000")) == before
    assert fingerprint(text.replace("b50c6a5d", "00000000")) != before


def test_the_resolved_config_is_the_config_over_whatever_it_is_laid(tmp_path: Path) -> None:
    # Over config.yaml it would get back the model that an override took away.
    config = config_with("train.epochs=99", "models.mtl_conservative=null")
    path = write_resolved(config, tmp_path)
    assert load_config([path]) == load_config([REPOSITORY / "config.yaml", path]) == config
    assert write_resolved(config_with(), tmp_path) != path
    # One that was edited is a file like any other.
    path.write_text("models: {one: {branches: {one: [qm7x]}}}\n")
    assert set(load_config([REPOSITORY / "config.yaml", path]).models) > {"one", "mtl"}


def test_models_need_no_branch_for_every_source() -> None:
    config = config_with("models.pair={branches: {a: [ani1x], b: [qm7x]}}")
    assert config.models["pair"].sources == ("ani1x", "qm7x")


def test_every_report_item_has_its_caption() -> None:
    for name in ITEMS:
        assert (REPOSITORY / "workflow" / "report" / f"{name}.rst").is_file()


def test_as_a_module_the_workflow_takes_the_config_that_it_is_given() -> None:
    workflow = SimpleNamespace(modifier=SimpleNamespace(skip_configfile=True))
    content = {"seed": 7, "models": {"one": {"branches": {"one": ["qm7x"]}}}}
    assert snakefile.read_config(workflow, content).seed == 7


def test_what_jobs_would_not_be_told_is_refused() -> None:
    settings = SimpleNamespace(replace_workflow_config=True)
    modifier = SimpleNamespace(skip_configfile=False)
    workflow = SimpleNamespace(modifier=modifier, config_settings=settings)
    with pytest.raises(ValueError, match="--replace-workflow-config"):
        snakefile.read_config(workflow, {})


def test_trainings_that_take_more_cores_start_first_and_of_these_the_longest() -> None:
    # One that waits for two free cores behind trainings on one keeps a core idle meanwhile.
    config = config_with()
    priority = {name: snakefile.training_priority(config, name) for name in config.models}
    assert priority["mtl"] == priority["mtl_conservative"] > priority["baseline"]
    assert priority["baseline"] > max(priority[source] for source in config.sources)


def test_data_of_all_sources_are_prepared_before_anything_is_trained() -> None:
    # Trainings on one source that keep the others' data waiting keep those on all of them waiting.
    sources = {f"source_{index}": ["x"] for index in range(1000)}
    config = SimpleNamespace(
        models={"mtl": SimpleNamespace(sources=tuple(sources), branches=sources)}
    )
    assert snakefile.training_priority(config, "mtl") < snakefile.DATA_PRIORITY
    text = "".join(path.read_text() for path in (REPOSITORY / "rules").glob("*.smk"))
    for rule in ("download", "extract", "extract_share", "normalize", "pack", "pack_share"):
        block = re.search(rf"^rule {rule}:\n(?:(?:    .*)?\n)+", text, re.MULTILINE)
        assert block is not None
        assert "    priority: flow.DATA_PRIORITY\n" in block[0]
