"""Machine files, dataset sizes, and the plan of the data stages."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
from helpers import REPOSITORY

from mtlpar.cli import main
from mtlpar.plan.data import STAGES, nodes_to_be_ready, plan_data
from mtlpar.plan.machine import DataRates, load_machine, write_machine
from mtlpar.plan.text import duration_text
from mtlpar.plan.workload import DATASET_SIZES, Dataset, make_branches, read_datasets, scale
from mtlpar.sources.registry import BUILT_IN

MACHINES = sorted((REPOSITORY / "workflow" / "machines").glob("*.yaml"))
# What takes seconds is to count the operations of a model, layer by layer.
SHALLOW = ["--set", "model.encoder.layers=1", "--set", "model.head.layers=1"]
RATES = DataRates(
    download_mb_per_s=10,
    extract_structures_per_s={"one": 100.0, "two": 50.0},
    normalize_structures_per_s=1000,
    pack_structures_per_s=200,
    load_structures_per_s=5000,
)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_machine_files_are_complete_and_survive_writing(path: Path, tmp_path: Path) -> None:
    machine = load_machine(path.stem)
    write_machine(tmp_path / "copy.yaml", machine)
    assert load_machine(str(tmp_path / "copy.yaml")) == machine


def test_the_machines_of_the_profiles_have_files() -> None:
    assert {"frontier", "perlmutter", "aurora", "laptop"} <= {path.stem for path in MACHINES}


def test_an_unknown_machine_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"machines/summit\.yaml; known are .*frontier"):
        load_machine("summit")


def test_away_from_the_project_its_files_are_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in the folder of a fine-tuning: "known are none" would name no way out.
    monkeypatch.chdir(tmp_path)
    told = "run in a checkout, or in a folder that `mtlpar init` wrote"
    with pytest.raises(ValueError, match=rf"laptop\.yaml; give a \.yaml file, or {told}"):
        load_machine("laptop")
    with pytest.raises(ValueError, match=rf"dataset_sizes\.csv; {told}"):
        read_datasets(None)


def test_a_wrong_machine_file_names_the_key(tmp_path: Path) -> None:
    text = (REPOSITORY / "workflow/machines/laptop.yaml").read_text()
    (tmp_path / "odd.yaml").write_text(text.replace("kernel_us:", "kernel_ms:"))
    with pytest.raises(ValueError, match=r"odd\.yaml: .*kernel_us"):
        load_machine(str(tmp_path / "odd.yaml"))


def test_dataset_sizes_agree_with_the_catalogue() -> None:
    # The planner's table and the table of files to download must not tell different stories.
    listed: Counter[str] = Counter()
    with (REPOSITORY / "workflow/sources.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["bytes"] and row["kind"] == "data":
                listed[row["source"]] += int(row["bytes"])
    sources = {*BUILT_IN, *listed}
    datasets = {dataset.name: dataset for dataset in read_datasets(sorted(sources))}
    for source, size in listed.items():
        assert datasets[source].raw_bytes == pytest.approx(size, rel=1e-5)


def test_every_number_of_the_table_says_where_it_is_from() -> None:
    with (REPOSITORY / DATASET_SIZES).open(newline="") as file:
        assert all(row["provenance"] for row in csv.DictReader(file))


def test_branches_repeat_datasets_and_scale_to_the_sum() -> None:
    datasets = [Dataset("a", 100, 5), Dataset("b", 300, 7)]
    branches = make_branches(datasets, 5, total_structures=1000)
    assert list(branches) == ["a", "b", "a2", "b2", "a3"]
    assert sum(dataset.structures for dataset in branches.values()) == pytest.approx(1000)
    assert branches["b"].structures == pytest.approx(3 * branches["a2"].structures)


def test_data_stages_by_hand() -> None:
    dataset = Dataset("two", structures=1000, atoms_per_structure=10, raw_bytes=5e7)
    costs = {cost.stage: cost for cost in plan_data([dataset], RATES, cores=4)}
    # 50 MB at 10 MB/s; 1000 structures at 50, 1000, 200 and 5000 a second. Four cores share
    # reading, loading and three quarters of packing.
    seconds = [costs[stage].seconds for stage in STAGES]
    assert seconds == pytest.approx([5.0, 5.0, 1.0, 5 * (0.25 + 0.75 / 4), 0.05])
    assert costs["extract"].disk_bytes == costs["pack"].disk_bytes == dataset.pack_bytes
    assert costs["load"].memory_bytes == dataset.pack_bytes


def test_larger_structures_are_packed_and_loaded_by_their_bytes() -> None:
    # Measured with 200 bytes: 25 an atom and 129 a structure make 379 of one with ten atoms.
    rates = RATES.model_copy(update={"bytes_per_structure": 200.0})
    dataset = Dataset("two", structures=1000, atoms_per_structure=10)
    small = Dataset("two", structures=1000, atoms_per_structure=1)
    of_ten, of_one = (
        {cost.stage: cost.seconds for cost in plan_data([one], rates, cores=1)}
        for one in (dataset, small)
    )
    factor = dataset.bytes_per_structure / 200
    assert factor > 1.5
    assert of_ten["pack"] == pytest.approx(factor * 1000 / 200)
    assert of_ten["load"] == pytest.approx(factor * 1000 / 5000)
    # Smaller ones are bound by their number.
    assert of_one["pack"] == pytest.approx(1000 / 200)


def test_nodes_by_hand() -> None:
    # 36,000 structures: 720 s to read on one node, 36 s to normalize, 180 s to pack, half of them
    # to sort. Of six minutes 234 s are left for the 810 s of reading and sorting: four nodes.
    dataset = Dataset("two", structures=36_000, atoms_per_structure=10)
    costs = plan_data([dataset], RATES, cores=1)
    assert nodes_to_be_ready(costs, hours=0.1) == {"two": 4}
    assert nodes_to_be_ready(costs, hours=1) == {"two": 1}
    with pytest.raises(ValueError, match=r"two cannot be ready in 0\.03 h: .* takes 0\.035 h"):
        nodes_to_be_ready(costs, hours=0.03)


def test_a_scaled_catalogue_keeps_its_proportions() -> None:
    one, two = scale([Dataset("a", 100, 5, raw_bytes=1e6), Dataset("b", 300, 7)], 800)
    assert (one.structures, two.structures, one.raw_bytes) == (200, 600, 2e6)


def test_the_sheet_of_the_whole_catalogue(capsys) -> None:
    assert main(["plan", "data", "--catalogue", "all", "--structures", "500e6", "--hours", "4",
                 "--cores", "64"]) == 0  # fmt: skip
    text = capsys.readouterr().out
    # A line for each set of the table, and none without a rate.
    rows = [line.split()[0] for line in text.splitlines() if line and not line[0].isspace()]
    assert {dataset.name for dataset in read_datasets(None)} <= set(rows)
    assert "nodes of 64 cores to be packed 4 h after the download: " in text
    assert main(["plan", "data", "--catalogue", "oc20", "water"]) == 1
    told = capsys.readouterr().err
    assert "no sizes of water" in told
    assert "there are ani1x, qm7x, " in told


def test_sources_beside_a_catalogue_are_not_ignored(capsys) -> None:
    assert main(["plan", "data", "--catalogue", "oc20", "--source", "ani1x"]) == 1
    assert "--catalogue and --source both say what to plan for" in capsys.readouterr().err


def test_a_source_without_a_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="no rate for reading three; there are one, two"):
        plan_data([Dataset("three", 1, 1)], RATES, cores=1)


@pytest.mark.long
def test_plans_say_that_they_are_predicted(capsys) -> None:
    assert main(["plan", "layout", "--machine", "frontier", "--gpus", "16", *SHALLOW]) == 0
    layout = capsys.readouterr().out
    assert "predicted" in layout
    assert "stated, not measured" in layout
    assert "recommended: " in layout
    assert main(["plan", "data", "--source", "ani1x"]) == 0
    assert "predicted" in capsys.readouterr().out


@pytest.mark.long
def test_a_plan_that_does_not_fit_is_never_the_best(capsys) -> None:
    # The laptop has one node: its ranks take turns, and its memory holds no such data.
    line = ["plan", "layout", "--machine", "laptop", "--gpus", "3", "--structures", "5e9"]
    assert main([*line, *SHALLOW]) == 0
    layout = capsys.readouterr().out
    assert layout.count("does not fit") == 4
    assert "<- best" not in layout
    assert "recommended: nothing that is allowed fits" in layout
    assert "3 ranks on 1 node," in layout


@pytest.mark.long
def test_few_structures_take_no_negative_time(capsys) -> None:
    assert main(["plan", "layout", "--structures", "3", *SHALLOW]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mtl-")]
    assert len(rows) == 4
    assert not any(
        cell[:2] != "<-" and cell.startswith("-") for row in rows for cell in row.split()
    )


@pytest.mark.parametrize(
    ("plan", "option", "values", "expected"),
    [
        ("layout", "--gpus", ["0", "-2", "1000000000000"], "from 1 to 1e+06"),
        ("layout", "--branches", ["0", "1001"], "from 1 to 1,000"),
        ("layout", "--structures", ["0", "1e-9", "inf", "nan"], "from 1 to 1e+15"),
        ("layout", "--batch-per-rank", ["0", "-2", "1e-9", "1e300"], "from 0.001 to 1e+06"),
        ("layout", "--epoch-hours", ["0", "1e-9", "inf"], "from 0.001 to 1e+06"),
        ("data", "--cores", ["0", "1000000000"], "from 1 to 100,000"),
        ("data", "--structures", ["1e-9", "inf"], "from 1 to 1e+15"),
        ("data", "--hours", ["0", "-1"], "from 0.001 to 1e+06"),
    ],
)
def test_numbers_out_of_bounds_are_refused_with_what_is_allowed(
    plan: str, option: str, values: list[str], expected: str, capsys
) -> None:
    for value in values:
        assert main(["plan", plan, option, value]) == 1
        shown = capsys.readouterr().err
        given = value if "e" not in value else str(float(value))
        assert f"{option} {given}" in shown
        assert f": expected a number {expected}" in shown


def test_a_source_of_unknown_size_is_named_and_not_left_out() -> None:
    # Another dataset would take its branch, or nothing would be planned for it.
    with pytest.raises(ValueError, match="no sizes of water: add a row"):
        read_datasets(["ani1x", "water"])


def test_a_machine_without_speed_is_refused(tmp_path: Path) -> None:
    text = (REPOSITORY / "workflow/machines/laptop.yaml").read_text()
    (tmp_path / "slow.yaml").write_text(re.sub(r"float32: [0-9.]+", "float32: 0", text))
    with pytest.raises(
        ValueError, match=r"slow\.yaml: peak_tflops\.float32: .*greater than 0, got 0"
    ):
        load_machine(str(tmp_path / "slow.yaml"))


@pytest.mark.parametrize("key", ["matmul_efficiency", "memory_efficiency"])
def test_an_efficiency_in_per_cent_is_refused_and_one_that_was_fitted_is_not(
    key: str, tmp_path: Path
) -> None:
    text = (REPOSITORY / "workflow/machines/laptop.yaml").read_text()
    path = tmp_path / "odd.yaml"
    path.write_text(re.sub(rf"{key}: [0-9.]+", f"{key}: 70", text))
    with pytest.raises(ValueError, match=rf"odd\.yaml: {key} is 70, expected a part .* as 0\.7"):
        load_machine(str(path))
    # A step that stays in the caches moves more than the memory could.
    path.write_text(f"{path.read_text()}\ncalibrated: here\n")
    assert getattr(load_machine(str(path)), key) == 70


@pytest.mark.parametrize("key", ["peak_tflops", "extract_structures_per_s"])
def test_a_table_of_rates_without_one_is_named(key: str, tmp_path: Path) -> None:
    text = (REPOSITORY / "workflow/machines/laptop.yaml").read_text()
    (tmp_path / "odd.yaml").write_text(re.sub(rf"{key}: {{[^}}]*}}", f"{key}: {{}}", text))
    with pytest.raises(ValueError, match=rf"odd\.yaml: .*{key}: .*at least 1 item"):
        load_machine(str(tmp_path / "odd.yaml"))


@pytest.mark.long
def test_a_machine_is_calibrated_by_one_command_and_planned_for_by_the_next(
    tmp_path: Path, capsys
) -> None:
    tiny = [*SHALLOW, "--set", "model.encoder.width=8", "--set", "study.atoms=4"]
    path = str(tmp_path / "mine.yaml")
    assert main(["plan", "calibrate", "--out", path, *tiny]) == 0
    assert capsys.readouterr().out == f"wrote {path}\n"
    assert main(["plan", "layout", "--machine", path, *tiny]) == 0
    assert "1 cpu rank at a time" in capsys.readouterr().out
    assert main(["plan", "calibrate", "--out", str(tmp_path)]) == 1
    (tmp_path / "folder.yaml").mkdir()
    assert main(["plan", "calibrate", "--out", str(tmp_path / "folder.yaml")]) == 1
    assert "folder.yaml is a folder; name a file" in capsys.readouterr().err


def test_a_machine_file_that_could_not_be_read_again_is_refused_before_measuring(capsys) -> None:
    assert main(["plan", "calibrate", "--out", "mine.json"]) == 1
    assert "--out mine.json: expected a name that ends in .yaml" in capsys.readouterr().err


def test_a_machine_without_data_rates_is_refused(capsys, caplog) -> None:
    assert main(["plan", "data", "--machine", "frontier"]) == 1
    assert "measure with --measure" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2e-5, "20 us"), (0.0123, "12.3 ms"), (90, "90 s"), (600, "10 min"), (9000, "2.5 h")],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize("cells", ["nan,9", "0,9", "-5,9", "inf,9", "text,9", ",9", "7"])
def test_a_size_that_is_no_number_is_named(cells: str, tmp_path: Path) -> None:
    # Zero structures would end in a division, NaN in a table of NaN.
    table = tmp_path / "sizes.csv"
    names = "source,atoms_variation,edges_per_atom,raw_bytes,structures,atoms_per_structure"
    table.write_text(f"{names}\nown,0,12,0,{cells}\n")
    key = "structures" if cells != "7" else "atoms_per_structure"
    with pytest.raises(ValueError, match=rf"sizes.csv: {key} of own is .*, expected a positive"):
        read_datasets(None, table)


def test_a_machine_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes("name: Zürich".encode("latin-1"))
    with pytest.raises(ValueError, match=r"own.yaml is not in UTF-8"):
        load_machine(str(path))
