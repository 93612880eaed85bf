"""Records beside the outputs: whole chains, every attempt, and no work that was just done."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from helpers import REPOSITORY

from mtlpar.config import Config, load_config
from mtlpar.core.records import write_content
from mtlpar.core.yaml_text import dump_yaml, load_yaml
from mtlpar.flow.lease import Lease, LeaseFolder, Owner
from mtlpar.flow.lineage import describe
from mtlpar.flow.records import StageRun, stage_run
from mtlpar.flow.run_record import RunRecord, read_run
from mtlpar.flow.table import ALL_SOURCES
from mtlpar.parallel.agree import Interrupted
from mtlpar.parallel.allocation import Allocation

IN_JOB = Allocation("slurm", "77", "frontier", nodes=4)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two sources and one model, with results of its own."""
    content = load_yaml((REPOSITORY / "config.yaml").read_text())
    content["sources"] = ["ani1x", "qm7x"]
    content["models"] = {"mtl": {"branches": {"ani1x": ["ani1x"], "qm7x": ["qm7x"]}}}
    content["paths"] = {"raw": str(tmp_path / "raw"), "results": str(tmp_path / "results")}
    (tmp_path / "config.yaml").write_text(dump_yaml(content))
    return load_config([tmp_path / "config.yaml"])


def work(config: Config, stage: str, target: str, *, allocation: Allocation = IN_JOB) -> None:
    """Run a stand-in of a stage that writes the names of its outputs into them."""
    with stage_run(config, stage, target, allocation=allocation, ranks=8) as due:
        assert due
        for path in StageRun.of(config, stage, target).outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)


def whole_chain(config: Config) -> None:
    for source in config.sources:
        for stage in ("download", "extract", "normalize", "pack"):
            work(config, stage, source)
    work(config, "train", "mtl")
    work(config, "evaluate", "mtl")
    work(config, "report", "table1")


def record_of(config: Config, stage: str, target: str) -> dict[str, object]:
    content: dict[str, object] = json.loads(StageRun.of(config, stage, target).record.read_text())
    return content


def test_a_table_tells_its_whole_chain(config: Config) -> None:
    whole_chain(config)
    results = config.workspace.results
    text = describe(results / "tables" / "table1.csv", results)
    for step in ("report table1", "evaluate mtl", "train mtl", "pack qm7x", "download ani1x"):
        assert f"by {step}" in text
    assert "job 77" in text
    assert "CHANGED" not in text


def test_a_file_that_was_edited_by_hand_is_named(config: Config) -> None:
    whole_chain(config)
    config.workspace.metrics("mtl", "qm7x").write_text("better")
    results = config.workspace.results
    lines = describe(results / "tables" / "table1.csv", results).splitlines()
    changed = [line for line in lines if "CHANGED SINCE" in line]
    assert len(changed) == 1
    assert "qm7x.json" in changed[0]


@pytest.mark.parametrize("key", ["node_hours", "noted_by_a_later_version"])
def test_a_record_that_was_edited_by_hand_is_refused(config: Config, key: str) -> None:
    # All of it is right in shape: tables of costs and the books would show it.
    whole_chain(config)
    record = StageRun.of(config, "train", "mtl").record
    content = json.loads(record.read_text())
    write_content(record, RunRecord, {**content, key: 0.25})
    assert getattr(read_run(record), key) == 0.25
    record.write_text(record.read_text().replace(f'"{key}": 0.25', f'"{key}": 0.5'))
    with pytest.raises(ValueError, match=r"mtl.json is damaged or was edited by hand"):
        read_run(record)


def test_an_input_that_was_made_anew_is_named(config: Config) -> None:
    # Its newest record fits the file; only the reader's says that it read another one.
    whole_chain(config)
    workspace = config.workspace
    read = record_of(config, "normalize", "qm7x")["inputs"]
    with stage_run(config, "extract", "qm7x", allocation=IN_JOB):
        workspace.extracted_manifest("qm7x").write_text("other structures")
    lines = describe(workspace.tables / "table1.csv", workspace.results).splitlines()
    replaced = [line for line in lines if "replaced since" in line]
    assert replaced
    digest = read[str(workspace.extracted_manifest("qm7x"))]  # type: ignore[index]
    assert all(f"READ AS {digest[:12]}" in line for line in replaced)


def test_a_pack_and_a_part_are_known_by_their_manifests(config: Config) -> None:
    # What is packed and asked about is the folder; what is recorded is the manifest beside it.
    whole_chain(config)
    workspace = config.workspace
    pack, part = workspace.pack("qm7x", "test"), workspace.extracted_folder("qm7x") / "1000.bp"
    for folder, maker in ((pack, "pack qm7x"), (part, "extract qm7x")):
        folder.mkdir(parents=True)
        assert f"by {maker}" in describe(folder, workspace.results).splitlines()[1]


def test_a_file_of_nobody_is_refused(config: Config) -> None:
    with pytest.raises(ValueError, match="no record"):
        describe(config.workspace.tables / "table1.csv", config.workspace.results)


def test_a_record_names_config_code_data_machine_and_job(config: Config) -> None:
    whole_chain(config)
    record = record_of(config, "train", "mtl")
    kept = load_yaml(Path(str(record["config"])).read_text())
    assert kept["train"] == config.train.model_dump(mode="json")
    assert len(str(record["config_digest"])) == 64
    assert record["code_digest"]
    assert len(record["inputs"]) == 4  # type: ignore[arg-type]
    assert record["machine"]["cluster"] == "frontier"  # type: ignore[index]
    assert record["attempts"][0]["job"] == "77"  # type: ignore[index]


def test_node_hours_count_every_attempt(config: Config) -> None:
    # A killed job, a failed one, and one that went on to the end: 4 nodes each.
    run = StageRun.of(config, "train", "mtl")
    files = LeaseFolder(run.outputs[0].parent, "train-mtl")
    now = time.time()
    killed = Owner("elsewhere", 1, "boot", "1", job="75", nodes=4, since=now - 20 * 3600)
    assert files.create(1, killed)
    files.write(Lease(1, killed, 9, now - 18 * 3600))

    def fail() -> None:
        with stage_run(config, "train", "mtl", allocation=IN_JOB):
            raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        fail()
    assert not run.record.exists()
    work(config, "train", "mtl")
    record = record_of(config, "train", "mtl")
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["killed", "failed", "done"]  # type: ignore[attr-defined]
    # Two hours on four nodes, and two moments.
    assert 8 <= record["node_hours"] < 8.1  # type: ignore[operator]
    # A later run from the start does not count them again.
    work(config, "train", "mtl")
    assert record_of(config, "train", "mtl")["node_hours"] < 0.1  # type: ignore[operator]


def test_a_training_that_ran_out_of_walltime_is_no_failure(config: Config) -> None:
    def stop() -> None:
        with stage_run(config, "train", "mtl", allocation=IN_JOB):
            raise Interrupted("the deadline")

    with pytest.raises(Interrupted):
        stop()
    (line,) = StageRun.of(config, "train", "mtl").attempts.read_text().splitlines()
    assert json.loads(line)["outcome"] == "to be continued"


def test_energy_is_told_where_slurm_measures_it(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(config, "download", "ani1x")
    (tmp_path / "sacct").write_text("#!/bin/sh\n[ $2 = 77 ] && echo 3600000\n")
    (tmp_path / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    text = describe(config.workspace.raw_manifest("ani1x"), config.workspace.results)
    assert "1.000 kWh" in text


def test_what_another_process_has_just_made_is_not_made_again(config: Config) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        with stage_run(config, "download", "ani1x", allocation=Allocation()):
            inside.set()
            assert go_on.wait(10)
            path = config.workspace.raw_manifest("ani1x")
            path.write_text("made")

    other = threading.Thread(target=slow)
    other.start()
    assert inside.wait(10)
    threading.Timer(0.5, go_on.set).start()
    with stage_run(config, "download", "ani1x", allocation=Allocation()) as due:
        assert not due
    other.join()
    # Who did not wait was told to make it anew, and does.
    with stage_run(config, "download", "ani1x", allocation=Allocation()) as due:
        assert due


def test_references_that_the_user_gives_are_an_input(config: Config, tmp_path: Path) -> None:
    # Else what was made of other energies would be taken for done, by a waiting job or adoption.
    given = tmp_path / "energies.json"
    normalize = config.normalize.model_copy(update={"reference_energies": {"qm7x": given}})
    run = StageRun.of(config.model_copy(update={"normalize": normalize}), "normalize", "qm7x")
    given.write_text('{"H": -13.6}')
    before = run.identity()
    given.write_text('{"H": -13.7}')
    assert run.identity() != before


def test_a_setting_of_another_stage_undoes_nothing(config: Config) -> None:
    # Else data are prepared once more for every mode of a fine-tuning that is tried.
    whole_chain(config)
    other = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 3})})
    assert StageRun.of(other, "extract", "ani1x").is_done()
    assert not StageRun.of(other, "train", "mtl").is_done()


def test_two_machines_write_the_same_bytes(config: Config) -> None:
    whole_chain(config)
    outputs = StageRun.of(config, "report", "table1").outputs
    first = [path.read_bytes() for path in outputs]
    work(config, "report", "table1", allocation=Allocation("pbs", "9", "aurora", 1))
    assert [path.read_bytes() for path in outputs] == first


def test_the_comparison_of_the_splits_is_recorded_with_all_that_it_read(config: Config) -> None:
    sources = [config.workspace.splits(source) for source in config.sources]
    for path in sources:
        path.parent.mkdir(parents=True)
        path.write_text("splits")
    work(config, "find_leaks", ALL_SOURCES)
    record = json.loads(StageRun.of(config, "find_leaks", ALL_SOURCES).record.read_text())
    assert {str(path) for path in sources} <= set(record["inputs"])
    assert list(record["outputs"]) == [str(config.workspace.leaks)]
    assert not list(config.workspace.leaks.parent.glob("*.tmp"))


def test_what_a_killed_run_left_on_another_machine_goes_when_its_outputs_are_made_again(
    config: Config,
) -> None:
    # The lease says that nobody else writes them, whatever machine the name is of.
    whole_chain(config)
    run = StageRun.of(config, "report", "table1")
    left = [path.with_name(f".{path.name}.elsewhere-7.tmp") for path in (*run.outputs, run.record)]
    other = run.outputs[0].with_name(".table2.csv.elsewhere-7.tmp")
    for path in (*left, other):
        path.touch()
    work(config, "report", "table1")
    assert [path for path in (*left, other) if path.exists()] == [other]
