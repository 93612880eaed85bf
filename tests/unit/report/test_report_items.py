"""The list of items is usable while a DAG is built, and wrong names are explained."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import REPOSITORY

from mtlpar.cli import main
from mtlpar.core.yaml_text import dump_yaml, load_yaml
from mtlpar.report import stage
from mtlpar.report.figures import _DRAW
from mtlpar.report.items import figure_names, get_item, inputs_of, outputs_of, table_names
from mtlpar.report.names import model_titles, source_title
from mtlpar.report.settings import ReportSettings


@pytest.mark.parametrize(
    ("module", "heavy"),
    [("items", {"numpy", "matplotlib", "torch"}), ("stage", {"matplotlib", "torch"})],
)
def test_what_a_dag_is_built_with_imports_nothing_heavy(module: str, heavy: set[str]) -> None:
    code = f"import sys, mtlpar.report.{module}; sys.exit(bool({heavy!r} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_figure_can_be_drawn() -> None:
    assert set(_DRAW) == set(figure_names())


@pytest.mark.parametrize("name", table_names())
def test_a_table_reads_and_writes_exactly_what_it_declares(fake_run, name: str) -> None:
    inputs = inputs_of(name, fake_run.scope)
    results = fake_run.workspace.results
    for path in [path for path in results.rglob("*") if path.is_file()]:
        if path not in inputs:
            path.unlink()

    stage.run(name, scope=fake_run.scope)

    after = {path for path in results.rglob("*") if path.is_file()}
    assert after == {*inputs, *outputs_of(name, fake_run.workspace)}


def test_a_report_makes_what_it_can_and_says_what_is_left_out_for_want_of_what(
    fake_run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Neither the first nor the last lacks anything: one that stops half-way leaves the last out.
    work = fake_run.workspace
    items = ("ledger", "leaks", "table1", "table2", "checks")
    monkeypatch.setattr(stage, "chosen_items", lambda *_, **__: items)
    content = load_yaml((REPOSITORY / "config.yaml").read_text())
    content["sources"] = list(fake_run.scope.sources)
    content["models"] = {"mtl": {"branches": {"all": content["sources"]}}}
    content["paths"] = {"raw": str(work.raw), "results": str(work.results)}
    (tmp_path / "config.yaml").write_text(dump_yaml(content))
    work.leaks.unlink()
    work.metrics("mtl", "qm7x").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 1
    told = capsys.readouterr().err
    assert "3 of 5 tables and figures are not made" in told
    assert f"\n  leaks: {work.leaks} is missing; run mtlpar leaks first" in told
    assert f"\n  table1, table2: {work.metrics('mtl', 'qm7x')} is missing; run" in told
    made = {path.stem for path in work.tables.glob("*.csv")}
    assert made == {"ledger", "checks"}


def test_an_unknown_item_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'table9'.*table1.*ledger_figure"):
        get_item("table9")


def test_an_unknown_parity_model_names_the_key(fake_run) -> None:
    scope = replace(fake_run.scope, settings=ReportSettings(parity_models=("mlt",)))

    with pytest.raises(ValueError, match=r"report\.parity_models: .*'mlt'; there are .*mtl"):
        inputs_of("parity_energy", scope)


def test_parity_defaults_to_models_of_several_sources(fake_run) -> None:
    paths = inputs_of("parity_force", fake_run.scope)

    assert {path.parent.name for path in paths} == {"baseline", "mtl", "ledger"}


def test_models_are_called_as_in_the_paper() -> None:
    both = ("qm7x", "mine")
    models = {"qm7x": ("qm7x",), "baseline": both, "mtl": both, "other": ("mine",)}

    assert list(model_titles(models, sources=both).values()) == [
        "GFM-QM7-X",
        "GFM-Baseline-All",
        "GFM-MTL-All",
        "GFM-other",
    ]
    assert source_title("mine") == "mine"
