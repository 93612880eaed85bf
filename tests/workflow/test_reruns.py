"""The recipes of docs/reruns.md, by name: what they run, and above all what they do not."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import copy_checkout, run_mtlpar, run_snakemake
from helpers import REPOSITORY

pytestmark = pytest.mark.workflow

DATA = {"download", "extract", "normalize", "pack"}


@pytest.fixture
def checkout(small_run: Path, tmp_path: Path) -> Path:
    """A copy of a small run, with its times, for one test to change."""
    return shutil.copytree(small_run, tmp_path / "mtlpar")


def planned(checkout: Path, *targets: str) -> dict[str, int]:
    """Jobs by rule that a dry run announces."""
    status, output = run_snakemake(checkout, "--cores", "2", "-n", *targets)
    assert status == 0, output[-5000:]
    if "Nothing to be done" in output:
        return {}
    table = re.search(r"^job +count\n[- ]+\n(.*?)^total", output, re.MULTILINE | re.DOTALL)
    assert table
    jobs = {rule: int(count) for rule, count in map(str.split, table[1].splitlines())}
    return {rule: count for rule, count in jobs.items() if rule not in ("all", "tables")}


def edit_config(checkout: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = checkout / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def edit_code(checkout: Path, module: str) -> None:
    with (checkout / "src" / "mtlpar" / module).open("a") as stream:
        stream.write("\n_EDITED = True\n")


def test_a_second_run_has_nothing_to_do(checkout: Path) -> None:
    assert planned(checkout) == {}


def test_only_this_table(checkout: Path) -> None:
    tables = list((checkout / "results" / "tables").glob("table1.*"))
    content = {path: path.read_bytes() for path in tables}
    for path in tables:
        path.unlink()
    assert planned(checkout, "table1") == {"table1": 1}
    assert run_snakemake(checkout, "--cores", "2", "table1")[0] == 0
    assert {path: path.read_bytes() for path in tables} == content


def test_only_this_model(checkout: Path) -> None:
    target = "results/models/mtl/model.pt"
    assert planned(checkout, "--force", target) == {"train": 1}


def test_more_epochs(checkout: Path) -> None:
    target = ("results/models/mtl/model.pt", "--config", "train__schedule=constant")
    assert run_snakemake(checkout, "--cores", "1", *target, "train__epochs=3")[0] == 0
    assert planned(checkout, *target, "train__epochs=6") == {"train": 1}
    assert run_snakemake(checkout, "--cores", "1", *target, "train__epochs=6")[0] == 0
    log = (checkout / "logs" / "train" / "mtl.log").read_text()
    assert "continues from epoch 2" in log
    assert "epoch 6/6" in log
    assert "epoch 2/6" not in log


def test_new_cutoff_no_repack(checkout: Path) -> None:
    edit_config(checkout, lambda config: config["model"]["graph"].update(cutoff_angstrom=4.0))
    jobs = planned(checkout)
    assert jobs["train"] == jobs["evaluate"] == 1
    assert not DATA & set(jobs)
    # The doctor looked at this machine already.
    assert "doctor" not in jobs


def test_new_source(checkout: Path) -> None:
    def add(config: dict[str, Any]) -> None:
        config["sources"].append("mptrj")
        config["models"]["mtl"]["branches"]["mptrj"] = ["mptrj"]

    edit_config(checkout, add)
    jobs = planned(checkout)
    for rule in (*DATA, "train", "evaluate"):
        assert jobs[rule] == 1, rule


def test_new_code_in_evaluate(checkout: Path) -> None:
    edit_code(checkout, "evaluate/stage.py")
    jobs = planned(checkout)
    assert jobs["evaluate"] == jobs["table1"] == 1
    assert not {*DATA, "train", "doctor", "learning_curves"} & set(jobs)


def test_the_tables_from_trained_models_on_another_machine(checkout: Path, tmp_path: Path) -> None:
    elsewhere = copy_checkout(tmp_path / "elsewhere")
    shutil.copy(checkout / "config.yaml", elsewhere)
    results = elsewhere / "results"
    for name in ("models", "ledger"):
        shutil.copytree(checkout / "results" / name, results / name)
    for path in (checkout / "results" / "packed").glob("*/test.*"):
        copy = results / "packed" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copy2(path, copy)
    tables = [f"table{number}" for number in (1, 2, 3, 4)]
    assert planned(elsewhere, *tables) == {"evaluate": 1, **dict.fromkeys(tables, 1)}
    status, output = run_snakemake(elsewhere, "--cores", "2", *tables)
    assert status == 0, output[-5000:]
    for table in tables:
        name = f"results/tables/{table}.csv"
        assert (elsewhere / name).read_bytes() == (checkout / name).read_bytes()


def test_freeze_what_is_there(checkout: Path) -> None:
    edit_code(checkout, "train/trainer.py")
    assert planned(checkout)["train"] == 1
    model = checkout / "results" / "models" / "mtl" / "model.pt"
    content = model.read_bytes()
    assert run_snakemake(checkout, "--touch", "--cores", "1")[0] == 0
    assert planned(checkout) == {}
    assert model.read_bytes() == content


def test_the_chain_of_a_table_reaches_the_raw_files(checkout: Path) -> None:
    done = run_mtlpar(checkout, ["provenance", "results/tables/table1.csv"])
    assert done.returncode == 0, done.stderr
    for step in ("report table1", "evaluate mtl", "train mtl", "pack ani1x", "download qm7x"):
        assert f"by {step}" in done.stdout
    assert "CHANGED" not in done.stdout


def test_every_recipe_of_the_page_has_its_test() -> None:
    page = (REPOSITORY / "docs" / "reruns.md").read_text()
    titles = re.findall(r"^\*\*(.+?)\.\*\*", page, re.MULTILINE)
    names = {"test_" + re.sub(r"\W+", "_", title.lower()) for title in titles}
    assert len(titles) == 8
    assert names <= set(globals())
