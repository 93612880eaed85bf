"""The whole DAG on a small mirror: what it makes, and what it makes again after each change."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from checkout import copy_checkout, run_snakemake

pytestmark = pytest.mark.workflow

SOURCES = ("ani1x", "qm7x", "mptrj", "alexandria", "transition1x", "ani1ccx")
WITHOUT_FORCES = "ani1ccx"
# Of the models of one source, which differ in their data alone, one with forces and one without.
SINGLE = ("ani1x", WITHOUT_FORCES)
MODELS = (*SINGLE, "baseline", "mtl", "mtl_conservative")
STAGES_AFTER = {
    "train": {"train", "evaluate", "report"},
    "evaluate": {"evaluate", "report"},
    "report": {"report"},
}
REPORT_RULES = {
    "table1", "table2", "table3", "table4", "ledger", "heatmap_energy", "heatmap_force",
    "parity_energy", "parity_force", "learning_curves", "ledger_figure", "ledger_files", "checks",
    "leaks", "references", "reference_energies", "table5", "table6", "parity_stress",
    "branches", "uncertainty", "calibration",
}  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository that tests may edit, without some of its models."""
    folder = copy_checkout(tmp_path_factory.mktemp("dag") / "mtlpar")
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["models"] = {name: config["models"][name] for name in MODELS}
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def snakemake(checkout: Path) -> Callable[..., str]:
    """Run Snakemake in the copy, with tiny models; returns what it printed."""

    def run(*arguments: str, check: bool = True) -> str:
        small = ("model__encoder={width: 8, layers: 1}", "train__epochs=1", "seed=3")
        # Short edges are few.
        small += ("model__graph__cutoff_angstrom=3.0",)
        # Which steps a training takes is no matter here: few.
        small += ("train__batch_structures=128", "train__warmup_steps=0")
        # Nobody looks at the figures: few dots.
        small += ("report__dpi=50",)
        # Its own number of epochs would win.
        small += ("models__mtl_conservative__train__epochs=1",)
        if "--config" not in arguments:
            arguments += ("--config", *small)
        status, output = run_snakemake(checkout, "--cores", "2", "--nolock", *arguments)
        assert not check or status == 0, output[-5000:]
        return output

    return run


@pytest.fixture(scope="module")
def finished(checkout: Path, snakemake: Callable[..., str]) -> Path:
    """The copy after the whole DAG ran once."""
    snakemake()
    return checkout


def planned(output: str) -> dict[str, int]:
    """Jobs by rule, from the table that a dry run prints."""
    jobs: dict[str, int] = {}
    inside = False
    for line in output.splitlines():
        if line.startswith("---"):
            inside = True
        elif inside and line.split():
            rule, count = line.split()
            if rule == "total":
                return jobs
            jobs[rule] = int(count)
    return jobs


def test_the_dag_makes_everything_that_others_rely_on(finished: Path) -> None:
    results = finished / "results"
    for source in SOURCES:
        for split in ("train", "val", "test"):
            assert (results / f"packed/{source}/{split}.bp").is_dir()
            assert (results / f"packed/{source}/{split}.manifest.json").is_file()
        ledger = json.loads((results / f"ledger/{source}.json").read_text())
        places = ledger["train"] + ledger["val"] + ledger["test"] + sum(ledger["dropped"].values())
        assert ledger["rows"] == places > 0
        assert (results / f"normalized/{source}/references.json").is_file()
    for model in MODELS:
        assert (results / f"models/{model}/model.pt").is_file()
        assert (results / f"models/{model}/metrics.jsonl").is_file()
        for source in SOURCES:
            metrics = json.loads((results / f"metrics/{model}/{source}.json").read_text())
            energies = ("energy_mae_ev_per_atom", "energy_rmse_ev_per_atom")
            forces = ("force_mae_ev_per_angstrom", "force_rmse_ev_per_angstrom")
            for key in energies if source == WITHOUT_FORCES else (*energies, *forces):
                assert 0 <= metrics[key] < 1e6
            assert source != WITHOUT_FORCES or not set(forces) & set(metrics)
            assert metrics["num_structures"] > 0
            assert metrics["num_atoms"] > metrics["num_structures"]
    for table in (
        *("table1", "table2", "table3", "table4", "table5", "table6"),
        *("ledger", "ledger_files", "checks", "leaks", "references", "branches", "uncertainty"),
    ):
        for suffix in ("csv", "md", "tex"):
            assert (results / f"tables/{table}.{suffix}").stat().st_size > 100
    assert len(list((results / "figures").glob("*.png"))) == 9


def test_the_mtl_model_was_trained_on_a_rank_per_core_with_branches_of_its_own(
    finished: Path,
) -> None:
    log = (finished / "logs/train/mtl.log").read_text()
    assert "mtl: 2 ranks," in log
    owners = re.search(r"branch owners (.*);", log)
    assert owners
    ranks = dict(owner.split(": ") for owner in owners[1].split(", "))
    assert ranks.keys() == set(SOURCES)
    assert set(ranks.values()) == {"0", "1"}


def test_a_second_run_has_nothing_to_do(finished: Path, snakemake: Callable[..., str]) -> None:
    assert "Nothing to be done" in snakemake()


def test_deleting_a_table_makes_that_table_alone(
    finished: Path, snakemake: Callable[..., str]
) -> None:
    table = finished / "results/tables/table2.csv"
    content = table.read_bytes()
    table.unlink()
    jobs = planned(snakemake("-n"))
    assert {rule for rule in jobs if rule != "all"} == {"table2"}
    snakemake("table2")
    assert table.read_bytes() == content


@pytest.mark.parametrize(
    ("module", "first_stage"),
    [
        ("train/trainer.py", "train"),
        ("evaluate/stage.py", "evaluate"),
        ("report/tables.py", "report"),
    ],
)
def test_an_edit_replans_its_stage_and_what_follows(
    finished: Path, snakemake: Callable[..., str], module: str, first_stage: str
) -> None:
    path = finished / "src/mtlpar" / module
    original = path.read_text()
    try:
        path.write_text(original + "\n_EDITED = True\n")
        jobs = set(planned(snakemake("-n"))) - {"all", "tables", "figures"}
    finally:
        path.write_text(original)
    stages = {"report" if rule in REPORT_RULES else rule for rule in jobs}
    assert stages == STAGES_AFTER[first_stage]
    # Every item that shows errors; not the ledger, nor learning curves without new training.
    assert {"table1", "table4", "heatmap_force", "parity_energy"} <= jobs
    assert ("learning_curves" in jobs) == (first_stage != "evaluate")
    assert ("ledger" in jobs) == (first_stage == "report")


def test_comments_and_docstrings_replan_nothing(
    finished: Path, snakemake: Callable[..., str]
) -> None:
    path = finished / "src/mtlpar/train/trainer.py"
    original = path.read_text()
    try:
        path.write_text(
            original.replace('"""The training loop."""', '"""Another text."""') + "\n# !\n"
        )
        assert "Nothing to be done" in snakemake("-n")
    finally:
        path.write_text(original)


def test_a_training_option_does_not_repack(finished: Path, snakemake: Callable[..., str]) -> None:
    jobs = planned(
        snakemake(
            "-n",
            "--config",
            "model={encoder: {width: 8, layers: 1}, graph: {cutoff_angstrom: 4.0}}",
            "train__epochs=2",
            "seed=3",
        )
    )
    assert "train" in jobs
    assert not {"download", "extract", "normalize", "pack"} & set(jobs)


def test_an_unknown_key_stops_the_workflow_before_any_job(
    finished: Path, snakemake: Callable[..., str]
) -> None:
    output = snakemake("-n", "--config", "train__epocs=2", check=False)
    assert "train.epocs: unknown key; did you mean 'epochs'?" in output


def test_the_html_report_holds_every_table_and_figure(
    finished: Path, snakemake: Callable[..., str]
) -> None:
    snakemake("--report", "report.html")
    html = (finished / "report.html").read_text(encoding="utf-8")
    for rule in REPORT_RULES:
        assert rule in html


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the report with")
def test_the_html_report_opens_in_a_browser(
    finished: Path, snakemake: Callable[..., str], tmp_path: Path
) -> None:
    # The report draws itself with scripts; only a browser shows whether they run offline.
    snakemake("--report", "browser.html")
    done = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={tmp_path}",
            *("--virtual-time-budget=5000", "--dump-dom"),
            (finished / "browser.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for text in ("Workflow", "Statistics", "Results", "Data"):
        assert text in done.stdout
