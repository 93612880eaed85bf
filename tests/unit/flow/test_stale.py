"""A command does not work on what was made with other settings than the configuration has now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import REPOSITORY

from mtlpar.cli import build_parser
from mtlpar.config import Config, load_config
from mtlpar.core.yaml_text import dump_yaml, load_yaml
from mtlpar.flow import as_written
from mtlpar.flow.as_written import WrittenFiles
from mtlpar.flow.lineage import describe
from mtlpar.flow.records import StageRun, digest_of, stage_run
from mtlpar.flow.run_record import command_of
from mtlpar.flow.stale import _ABOVE, _differing
from mtlpar.flow.table import ALL_SOURCES, STAGES
from mtlpar.parallel.allocation import Allocation

HERE = Allocation(nodes=1)
OWN = {"files": ["a.xyz"], "level_of_theory": "PBE", "energy_unit": "kcal/mol"}


def made(tmp_path: Path, changes: dict[str, Any]) -> Config:
    """One own source and two models, one of which starts from the other."""
    content = load_yaml((REPOSITORY / "config.yaml").read_text())
    content["sources"] = ["own"]
    content["custom_sources"] = {"own": OWN}
    content["models"] = {
        "base": {"branches": {"own": ["own"]}},
        "tuned": {"branches": {"own": ["own"]}, "start_from": {"model": "base"}},
    }
    content["paths"] = {"raw": str(tmp_path / "raw"), "results": str(tmp_path / "results")}
    (tmp_path / "config.yaml").write_text(dump_yaml(content))
    assignments = [f"{key}={value}" for key, value in changes.items()]
    return load_config([tmp_path / "config.yaml"], assignments)


def work(config: Config, stage: str, target: str) -> None:
    """A stand-in of a stage that writes the names of its outputs into them."""
    with stage_run(config, stage, target, allocation=HERE):
        for path in StageRun.of(config, stage, target).outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)


CHAIN = [
    ("extract", "own"),
    ("normalize", "own"),
    ("pack", "own"),
    ("train", "base"),
    ("train", "tuned"),
    ("evaluate", "tuned"),
    ("report", "table1"),
]


@pytest.mark.parametrize(
    ("changes", "refused", "told"),
    [
        (
            {"custom_sources.own.energy_unit": "eV"},
            ["normalize", "pack", "train", "train", "evaluate", "report"],
            r"`mtlpar extract --source own` was run with energy_unit 'kcal/mol' \(now 'eV'\).*"
            r"Run `mtlpar extract --source own` and what follows",
        ),
        (
            {"extract.max_force_ev_per_angstrom": 7},
            ["normalize", "pack", "train", "train", "evaluate", "report"],
            r"max_force_ev_per_angstrom 1000.0 \(now 7.0\)",
        ),
        ({"seed": 3}, ["pack", "train", "train", "evaluate", "report"], r"seed 0 \(now 3\)"),
        (
            {"model.encoder.width": 8},
            ["train", "evaluate", "report"],
            r"`mtlpar train --model base` was run with encoder.width 64 \(now 8\)",
        ),
        (
            {"models.tuned.train.epochs": 3},
            ["evaluate", "report"],
            r"`mtlpar train --model tuned` was run with epochs 16 \(now 3\).*"
            r"Run `mtlpar train --model tuned`",
        ),
        ({"models.tuned.start_from.mode": "heads"}, ["evaluate", "report"], "mode 'full' .now 'he"),
        ({"report.dpi": 99}, [], ""),
        ({"train.keep_checkpoints": 9}, [], ""),
        ({"extract.shares": 4, "pack.shares": 4}, [], ""),
    ],
)
def test_every_stage_behind_a_changed_setting_refuses_to_go_on(
    tmp_path: Path, changes: dict[str, Any], refused: list[str], told: str
) -> None:
    before = made(tmp_path, {})
    for stage, target in CHAIN:
        work(before, stage, target)
    after = made(tmp_path, changes)
    found = []
    for stage, target in reversed(CHAIN):
        try:
            with stage_run(after, stage, target, allocation=HERE):
                pass
        except ValueError as error:
            found.insert(0, stage)
            message = str(error)
    assert found == refused
    if refused:
        with pytest.raises(ValueError, match=told):
            raise ValueError(message)


def test_what_was_made_anew_is_taken(tmp_path: Path) -> None:
    before, after = made(tmp_path, {}), made(tmp_path, {"custom_sources.own.energy_unit": "eV"})
    for stage, target in CHAIN:
        work(before, stage, target)
    for stage, target in CHAIN:
        work(after, stage, target)


def test_a_file_without_a_record_is_not_compared(tmp_path: Path) -> None:
    # As a model that somebody sent, put in its place by hand.
    before = made(tmp_path, {})
    for stage, target in CHAIN:
        work(before, stage, target)
    for stage, target in CHAIN:
        StageRun.of(before, stage, target).record.unlink()
    work(made(tmp_path, {"seed": 3, "model.encoder.width": 8}), "evaluate", "tuned")


def test_a_model_from_elsewhere_is_named_with_its_digest(tmp_path: Path) -> None:
    received = tmp_path / "received" / "model.pt"
    received.parent.mkdir()
    received.write_text("weights")
    config = made(tmp_path, {"models.tuned.start_from.model": str(received)})
    for stage, target in CHAIN[:3]:
        work(config, stage, target)
    work(config, "train", "tuned")
    told = describe(config.workspace.model("tuned"), config.workspace.results)
    assert f"{received}  {digest_of(received)[:12]}  (no record)" in told
    received.write_text("other weights")
    told = describe(config.workspace.model("tuned"), config.workspace.results)
    assert "which has been replaced since" in told


def drawn(tmp_path: Path) -> tuple[Config, Path]:
    """A finished run with a table and two figures, and the folder of its records."""
    config = made(tmp_path, {})
    for stage, target in [*CHAIN[:4], ("evaluate", "base"), *CHAIN[4:]]:
        work(config, stage, target)
    for item in ("heatmap_energy", "heatmap_force", "parity_energy"):
        work(config, "report", item)
    return config, config.workspace.results / "provenance"


@pytest.mark.long
@pytest.mark.parametrize(
    ("item", "file", "told"),
    [
        ("table1", "metrics/tuned/own.json", "`mtlpar evaluate --model tuned`"),
        ("parity_energy", "predictions/base/own.npz", "`mtlpar evaluate --model base`"),
        ("learning_curves", "models/base/metrics.jsonl", "`mtlpar train --model base`"),
        ("ledger", "ledger/own.json", "`mtlpar normalize --source own`"),
    ],
)
def test_what_only_the_report_reads_is_not_believed_for_where_it_lies(
    item: str, file: str, told: str, tmp_path: Path
) -> None:
    # An edited error would be in the table of a paper; these files have no digest of their own.
    config, records = drawn(tmp_path)
    path = config.workspace.results / file
    WrittenFiles(config, records).check_inputs(item)
    path.write_text("of another run")
    with pytest.raises(ValueError, match=rf"{file} is not what {told} wrote: .*run {told} again"):
        WrittenFiles(config, records).check_inputs(item)
    # Put there by somebody who wants it: no record speaks of it.
    for record in records.glob("*/*.json"):
        record.unlink()
    WrittenFiles(config, records).check_inputs(item)


@pytest.mark.parametrize(
    ("item", "file", "told"),
    [
        ("table1", "models/tuned/model.pt", "`mtlpar evaluate --model tuned`"),
        ("ledger", "extracted/own/manifest.json", "`mtlpar normalize --source own`"),
    ],
)
def test_a_table_is_not_made_of_what_was_measured_on_something_else(
    item: str, file: str, told: str, tmp_path: Path
) -> None:
    # Trained again, and not tested again: the errors are those of the model before.
    config, records = drawn(tmp_path)
    (config.workspace.results / file).write_text("of another run")
    with pytest.raises(ValueError, match=rf"{file} has been replaced since {told} read it; run"):
        WrittenFiles(config, records).check_inputs(item)


def test_which_model_was_tested_is_known_as_long_as_its_errors_are_as_written(
    tmp_path: Path,
) -> None:
    config, records = drawn(tmp_path)
    written = WrittenFiles(config, records)
    assert written.tested("tuned") == digest_of(config.workspace.model("tuned"))
    assert written.tested("of somebody") is None
    config.workspace.metrics("tuned", "own").write_text("of another run")
    with pytest.raises(
        ValueError, match=r"own.json is not what `mtlpar evaluate --model tuned` wrote"
    ):
        WrittenFiles(config, records).tested("tuned")


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("metrics/tuned/own.json", "own.json is not what `mtlpar evaluate --model tuned` wrote"),
        (
            "models/tuned/model.pt",
            "model.pt has been replaced since `mtlpar evaluate --model tuned` read it",
        ),
    ],
)
def test_a_folder_in_place_of_a_file_is_told_from_nothing(
    file: str, told: str, tmp_path: Path
) -> None:
    # Neither is a file. What is gone is for the reader to miss; a folder was put there.
    config, records = drawn(tmp_path)
    path = config.workspace.results / file
    path.unlink()
    WrittenFiles(config, records).check_inputs("table1")
    path.mkdir()
    with pytest.raises(ValueError, match=told):
        WrittenFiles(config, records).check_inputs("table1")


def test_a_setting_that_was_not_there_is_not_said_to_have_been_none() -> None:
    # As of an earlier version: None looks like a value that could be put back. A new setting that
    # is null changes nothing.
    then = [{"head": {"width": 8, "old": 1}}]
    now = [{"head": {"width": 8, "isolated_atoms": "learned", "limit": None}}]
    assert list(_differing("", then, now)) == [
        "head.old 1 (now not given)",
        "head.isolated_atoms not given (now 'learned')",
    ]


def test_a_source_that_came_to_a_model_that_was_tested_is_told_as_such() -> None:
    # Errors and leaks depend on the list of sources, whose length is no sign of another version.
    then, now = [{"batch_atoms": 1}, 0, ["own"]], [{"batch_atoms": 1}, 0, ["own", "more"]]
    assert list(_differing("", then, now)) == ["sources ['own'] (now ['own', 'more'])"]
    assert list(_differing("", [["own"]], [["other"]])) == ["sources ['own'] (now ['other'])"]


def test_figures_that_were_exchanged_do_not_get_into_a_page(tmp_path: Path) -> None:
    config, records = drawn(tmp_path)
    items = ("heatmap_energy", "heatmap_force")
    for item in items:
        WrittenFiles(config, records).check_outputs(item)
    energy, force = (config.workspace.figures / f"{item}.png" for item in items)
    energy.write_bytes(force.read_bytes())
    with pytest.raises(ValueError, match=r"heatmap_energy.png is not what `mtlpar report --item"):
        WrittenFiles(config, records).check_outputs("heatmap_energy")


def test_what_many_items_are_made_of_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All tables read all errors; at full size predictions are gigabytes.
    config, records = drawn(tmp_path)
    read: list[Path] = []
    monkeypatch.setattr(
        as_written, "file_digest", lambda path: (read.append(path), digest_of(path))[1]
    )
    written = WrittenFiles(config, records)
    for item in ("table1", "heatmap_energy", "parity_energy"):
        written.check_inputs(item)
    assert len(read) == len(set(read)) > 0


def test_every_stage_is_told_by_a_command_that_there_is() -> None:
    parser = build_parser()
    for stage in _ABOVE:
        kind = STAGES[stage].target
        target = {"{source}": "ani1x", "{model}": "mtl"}.get(kind, kind)
        words = command_of(stage, target).split()
        assert words[0] == "mtlpar"
        parser.parse_args(words[1:])
    assert command_of("find_leaks", ALL_SOURCES) == "mtlpar leaks"
    assert command_of("study", "scaling") == "mtlpar study draw --study scaling"
    assert command_of("report", "table1") == "mtlpar report --item table1"
