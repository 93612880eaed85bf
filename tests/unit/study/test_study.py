"""The studies: what they record is what the layouts hold, and how it is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import REPOSITORY
from warm import warm_python

from mtlpar.config import load_config
from mtlpar.core.files import read_json, write_json
from mtlpar.core.measurements import MemoryRecord, ScalingRecord
from mtlpar.core.paths import Workspace
from mtlpar.core.records import read_record, write_content
from mtlpar.flow import measuring
from mtlpar.model.settings import EgnnSettings, HeadSettings, ModelSettings
from mtlpar.parallel.ranks import RankContext
from mtlpar.plan.machine import GENERIC_CPU, Machine
from mtlpar.report.memory import draw_memory
from mtlpar.report.studies import write_study
from mtlpar.report.style import house_style
from mtlpar.study import scaling
from mtlpar.study.calibrate import MeasuredStep, calibrate, fit_link, fit_rates
from mtlpar.study.settings import ScalingStudySettings, StudySettings
from mtlpar.study.steps import equal_branches

ALONE = RankContext(0, 1, torch.device("cpu"))
TINY = ModelSettings(
    encoder=EgnnSettings(width=16, layers=1), head=HeadSettings(width=16, layers=1)
)


def test_a_batch_is_dealt_to_branches_without_rest() -> None:
    assert list(equal_branches(3, 8).values()) == [2, 3, 3]


@pytest.mark.mpi
@pytest.mark.parametrize("layout", ["mtl-par", "mtl-par-sharded"])
def test_ranks_hold_what_the_formula_says(tmp_path: Path, layout: str) -> None:
    command, rank = [sys.executable, "-m", "mtlpar"], [*warm_python(), "-m", "mtlpar"]
    line = [
        *command, "launch", "--ranks-per-node", "2", "--", *rank, "study", "memory",
        "--config", str(REPOSITORY / "config.yaml"), "--layout", layout, "--branches", "2",
        "--out", str(tmp_path / "record.json"), "--set", f"study.model={TINY.model_dump_json()}",
    ]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    record = read_json(tmp_path / "record.json")
    held = [record[f"{part}_bytes"] for part in ("parameters", "gradients", "moments")]
    # Two branches exist, and each rank holds one: Ps + Ph, and nothing of the other.
    encoder = record["encoder_parameters"]
    if layout == "mtl-par-sharded":
        # Tensors are cut along rows: 119 rows of the species' table are 60 and 59 of 16 numbers.
        assert record["encoder_shards"] == 2
        encoder = (encoder + 16) // 2
    parameters = 4 * (encoder + record["branch_parameters"])
    assert held == [parameters, parameters, 2 * parameters]
    assert record["formula_bytes"] == pytest.approx(sum(held), rel=0.01)
    assert record["ranks"] == 2


def test_the_wrong_number_of_ranks_is_refused(tmp_path: Path) -> None:
    from mtlpar.study import memory

    with pytest.raises(ValueError, match="measured on 4 ranks, got 1"):
        memory.run(
            tmp_path / "record.json", layout="mtl-par", branches=4, settings=StudySettings(),
            context=ALONE,
        )  # fmt: skip


def test_scaling_times_every_layout_batch_and_repeat(tmp_path: Path) -> None:
    settings = StudySettings(
        model=TINY, atoms=4,
        scaling=ScalingStudySettings(branches=2, batch_structures=(2, 3), steps=1, repeats=2,
            traced_steps=5,
        ),
    )  # fmt: skip
    scaling.run(tmp_path / "one.json", settings=settings, context=ALONE)
    record = read_json(tmp_path / "one.json")
    keys = {(e["layout"], e["scaling"], e["batch"]) for e in record["epochs"]}
    # On one rank both kinds of scaling are the same measurement, and both start from it.
    assert len(keys) == len(record["epochs"]) == 2 * 2 * 2
    assert all(len(e["seconds"]) == 2 and min(e["seconds"]) > 0 for e in record["epochs"])
    assert not record["oversubscribed"]
    # Every step of the traced epoch, of both layouts.
    traces = read_record(tmp_path / "one.json", ScalingRecord, stage="study scaling").traces
    assert [trace.layout for trace in traces] == ["mtl-base", "mtl-par"]
    for trace in traces:
        assert len(trace.data[0]) == 5
        assert min(np.subtract(trace.left[0], trace.arrived[0])) > 0


def _scaling_record(ranks: int, seconds: float) -> dict[str, object]:
    epochs = [
        {
            "layout": layout,
            "scaling": kind,
            "batch": 8,
            "seconds": [seconds, 1.5 * seconds, seconds],
        }
        for layout in ("mtl-base", "mtl-par")
        for kind in ("strong", "weak")
    ]
    return {
        "ranks": ranks, "device": "cpu", "oversubscribed": ranks > 2, "steps": 4, "branches": 2,
        "epochs": epochs,
        "traces": [_traces("mtl-base", ranks), _traces("mtl-par", ranks)],
    }  # fmt: skip


def _traces(layout: str, ranks: int) -> dict[str, object]:
    """Steps of 1 s of which the last rank, if there are more, holds the others up for half."""
    last = [0.5 if rank == ranks - 1 > 0 else 0.0 for rank in range(ranks)]
    arrived = [[step + 0.5 + late for step in range(6)] for late in last]
    return {
        "layout": layout, "ranks_per_node": 2, "pair_seconds": [], "hosts": ["here"] * ranks,
        "data": [[0.0] * 6] * ranks, "sending": [[0.0] * 6] * ranks,
        "compute": [[0.5 + late] * 6 for late in last],
        "arrived": arrived, "left": [[step + 1.0 for step in range(6)]] * ranks,
    }  # fmt: skip


def test_scaling_table_has_efficiency_spread_and_marks_shared_cores(tmp_path: Path) -> None:
    workspace = Workspace(raw=tmp_path, results=tmp_path)
    for ranks, seconds in ((1, 8.0), (4, 4.0)):
        write_json(
            workspace.study_record("scaling", f"{ranks}-ranks"), _scaling_record(ranks, seconds)
        )
    write_study(
        "scaling",
        [workspace.study_record("scaling", f"{ranks}-ranks") for ranks in (1, 4)],
        workspace=workspace,
        dpi=40,
    )
    lines = (workspace.studies / "scaling.csv").read_text().splitlines()
    # Four ranks in half the time: 0.5 in strong scaling; in weak scaling half the time is 2.
    assert "strong,8,MTL-par,4 (shared),4.00,4.00,6.00,0.50" in lines
    assert "weak,8,MTL-par,4 (shared),4.00,4.00,6.00,2.00" in lines
    assert "strong,8,MTL-base,1,8.00,8.00,12.0,1.00" in lines
    assert (workspace.studies / "scaling.png").stat().st_size > 1000
    # Of the most ranks that were measured.
    text = (workspace.studies / "scaling.md").read_text()
    assert "MTL-par on 4 ranks: verdict: a rank that computes longer: rank 3 on node 1" in text
    assert "on 1 ranks" not in text


def test_memory_table_puts_measurement_beside_the_formula(tmp_path: Path) -> None:
    workspace = Workspace(raw=tmp_path, results=tmp_path)
    paths = []
    for layout, formula in (("mtl-base", 40e6), ("mtl-par", 24e6)):
        path = workspace.study_record("memory", f"{layout}-2")
        paths.append(path)
        record = {
            "layout": layout, "branches": 2, "ranks": 2, "device": "cpu",
            "formula_bytes": formula, "peak_bytes": formula + 5e6, "parameters_bytes": formula / 4,
            "gradients_bytes": formula / 4, "moments_bytes": formula / 2,
        }  # fmt: skip
        write_json(path, record)
    write_study("memory", paths, workspace=workspace, dpi=40)
    lines = (workspace.studies / "memory.csv").read_text().splitlines()
    assert lines[1:] == ["2,MTL-base,2,40.0,40.0,45.0", "2,MTL-par,2,24.0,24.0,29.0"]


def test_the_legend_of_the_memory_figure_lies_within_it() -> None:
    # All three layouts: the longest names, and the most entries.
    records = [
        MemoryRecord(
            layout=layout, branches=branches, ranks=2, device="cpu", formula_bytes=4e7,
            peak_bytes=5e7, parameters_bytes=1e7, gradients_bytes=1e7, moments_bytes=2e7,
        )
        for layout in ("mtl-base", "mtl-par", "mtl-par-sharded")
        for branches in (2, 16)
    ]  # fmt: skip
    with house_style():
        figure = draw_memory(records)
        figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


@pytest.mark.mpi
@pytest.mark.parametrize("layout", ["mtl-par", "mtl-par-sharded"])
def test_parts_of_a_profiled_step_add_up_and_hidden_sums_lie_within_compute(
    tmp_path: Path, layout: str
) -> None:
    command, rank = [sys.executable, "-m", "mtlpar"], [*warm_python(), "-m", "mtlpar"]
    study = {"ranks": 3, "batch_structures": [4, 1], "steps": 3}
    line = [
        *command, "launch", "--ranks-per-node", "3", "--", *rank, "study", "comm",
        "--config", str(REPOSITORY / "config.yaml"), "--layout", layout,
        "--out", str(tmp_path / "record.json"), "--set", f"study.model={TINY.model_dump_json()}",
        "--set", f"study.comm={json.dumps(study)}", "--set", "study.atoms=4",
    ]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    record = read_json(tmp_path / "record.json")
    # The larger branch has two of the three ranks, and reduces inside its group alone.
    assert record["branches"] == [["branch0"], ["branch0"], ["branch1"]]
    for seconds in record["ranks"]:
        hidden = {name: seconds.pop(name) for name in ("encoder_hidden", "branch_hidden")}
        assert seconds.pop("step") == pytest.approx(sum(seconds.values()))
        assert min(seconds.values()) >= 0
        assert max(hidden.values()) <= seconds["compute"]
    assert all(s["encoder_exposed"] + s["waiting"] > 0 for s in record["ranks"])
    if layout == "mtl-par":
        lonely = record["ranks"][2]
        assert lonely["branch_exposed"] == 0
    else:
        # Each pass waits for shards on every rank, and nothing hides that on a CPU.
        assert all(s["encoder_exposed"] > 0 for s in record["ranks"])


def test_a_measurement_is_not_believed_for_where_it_lies(tmp_path: Path) -> None:
    # A copy under another name was drawn twice, and what belongs there not at all.
    workspace = Workspace(raw=tmp_path, results=tmp_path)
    paths = [workspace.study_record("memory", f"{name}-2") for name in ("mtl-base", "mtl-par")]
    for path in paths:
        layout = path.stem.removesuffix("-2")
        sizes = dict.fromkeys(("parameters_bytes", "gradients_bytes", "moments_bytes"), 1000000.0)
        content = {
            "layout": layout, "branches": 2, "ranks": 2, "device": "cpu",
            "formula_bytes": 4e6, "peak_bytes": 5e6, **sizes,
        }  # fmt: skip
        write_content(path, MemoryRecord, content)
    sound = paths[1].read_text()
    write_study("memory", paths, workspace=workspace, dpi=40)
    paths[1].write_text(paths[0].read_text())
    with pytest.raises(ValueError, match=r"measured is 'mtl-base-2', expected 'mtl-par-2'"):
        write_study("memory", paths, workspace=workspace, dpi=40)
    paths[1].write_text(sound.replace("5000000.0", "4000000.0"))
    with pytest.raises(ValueError, match=r"mtl-par-2.json is damaged or was edited by hand"):
        write_study("memory", paths, workspace=workspace, dpi=40)


def test_comm_table_and_figure_show_every_rank(tmp_path: Path) -> None:
    workspace = Workspace(raw=tmp_path, results=tmp_path)
    seconds = {
        "data": 0.001, "compute": 0.1, "encoder_exposed": 0.02, "branch_exposed": 0.0,
        "waiting": 0.03, "update": 0.004, "step": 0.155, "encoder_hidden": 0.05,
        "branch_hidden": 0.0,
    }  # fmt: skip
    for layout, branches in (("mtl-base", [["a", "b"]] * 2), ("mtl-par", [["a"], ["b"]])):
        record = {
            "layout": layout, "device": "cpu", "steps": 3, "batch_structures": [2, 2],
            "branches": branches, "oversubscribed": False, "ranks": [seconds, seconds],
        }  # fmt: skip
        write_json(workspace.study_record("comm", layout), record)
    paths = [workspace.study_record("comm", layout) for layout in ("mtl-base", "mtl-par")]
    write_study("comm", paths, workspace=workspace, dpi=40)
    lines = (workspace.studies / "comm.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2
    assert lines[4] == "MTL-par,1,b,1.00,100,20.0,0,30.0,4.00,155,50.0,0"
    assert (workspace.studies / "comm.png").stat().st_size > 1000


def test_an_unknown_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="no study is called 'speed'; there are memory, scaling, comm"
    ):
        write_study("speed", [], workspace=Workspace(raw=tmp_path, results=tmp_path), dpi=40)


def test_rates_that_made_the_times_are_found_again() -> None:
    true = (2e-11, 1e-10, 5e-6)
    amounts = [(1e9, 1e7, 300), (8e9, 9e7, 300), (3e8, 9e7, 500), (1e7, 1e6, 900), (4e9, 1e6, 300)]
    steps = [
        MeasuredStep(sum(r * a for r, a in zip(true, amount, strict=True)), *amount)
        for amount in amounts
    ]
    assert fit_rates(steps) == pytest.approx(true, rel=1e-6)


def test_rates_are_positive_even_where_times_contradict_each_other() -> None:
    steps = [MeasuredStep(s, f, 1e8, 300) for s, f in ((1.0, 4e9), (1.2, 2e9), (1.1, 1e9))]
    assert min(fit_rates(steps)) > 0


@pytest.fixture(scope="module")
def calibrated() -> Machine:
    """The machine that these tests run on, measured by a tiny model."""
    return calibrate(GENERIC_CPU, model=TINY, atoms=4, context=ALONE)


def test_what_no_step_has_any_of_is_not_measured(calibrated: Machine) -> None:
    # Rates of 1e-38 of the peak stood in the file: any wider model would have taken for ever.
    steps = [MeasuredStep(s, 0.0, b, 300) for s, b in ((1.0, 1e8), (2.0, 2e8), (1.1, 1.1e8))]
    assert fit_rates(steps)[0] == 0
    assert calibrated.matmul_efficiency == GENERIC_CPU.matmul_efficiency


def test_the_link_that_made_the_times_is_found_again() -> None:
    # Four ranks; messages of 2 B bytes in all, as in a ring all-reduce: 3 pieces out, 3 back.
    sizes = (2.0**23, 2.0**10)
    seconds = [6 * 40e-6 + 6 / 4 * size / 3e9 for size in sizes]
    link = fit_link(sizes, seconds, ranks=4, messages=2)
    assert (link.latency_us, link.gb_per_s) == pytest.approx((40, 3), rel=1e-3)


def test_an_exchange_that_takes_no_time_still_has_a_link() -> None:
    # The difference of two noisy times may be nothing; a link of no latency cannot be divided by.
    link = fit_link((2.0**20, 2.0**16), (0.0, 0.0), ranks=2, messages=1)
    assert link.latency_us > 0


def test_calibration_replaces_rates_and_keeps_the_rest(calibrated: Machine) -> None:
    assert calibrated.calibrated
    assert calibrated.memory_gb_per_s != GENERIC_CPU.memory_gb_per_s
    assert calibrated.inter_node == GENERIC_CPU.inter_node
    # One rank has nobody to reduce with.
    assert calibrated.intra_node == GENERIC_CPU.intra_node


def test_ranks_of_a_study_fill_nodes_evenly() -> None:
    config = load_config([REPOSITORY / "config.yaml"], ["study.ranks_per_node=8"])
    assert (measuring.study_nodes(config, 16), measuring.study_ranks_per_node(config, 16)) == (2, 8)
    assert (measuring.study_nodes(config, 4), measuring.study_ranks_per_node(config, 4)) == (1, 4)
    with pytest.raises(ValueError, match="9 ranks do not fill 2 nodes evenly"):
        measuring.study_ranks_per_node(config, 9)
