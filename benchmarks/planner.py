"""Predicted against measured: step time and parameters of both layouts on 1, 2 and 5 ranks.

    python benchmarks/planner.py

Each round calibrates the planner on this machine and then measures what it is to predict, so that
both see the same neighbours; of several rounds the fastest step and the fastest rates count. Five
ranks share the cores of a small machine, which the planner takes into account.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_machine

from mtlpar.core.files import read_json, write_json
from mtlpar.parallel.launch import Geometry, launch_command
from mtlpar.parallel.ranks import distributed_context
from mtlpar.plan.census import take_census
from mtlpar.plan.machine import GENERIC_CPU, Machine, load_machine, write_machine
from mtlpar.plan.predict import predict
from mtlpar.plan.text import duration_text, size_text, table_text
from mtlpar.plan.workload import Dataset, Workload
from mtlpar.study.settings import StudySettings

BRANCHES = 5
LAYOUTS = ("mtl-base", "mtl-par")
RANKS = (1, 2, 5)
STUDY = StudySettings()
_TARGET = 0.15


def main() -> None:
    """Measure, predict, and print both with their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=2, help="alternations (default: 2)")
    parser.add_argument("--repeats", type=int, default=6, help="steps per round (default: 6)")
    parser.add_argument("--batch", type=int, default=20, help="global batch (default: 20)")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="compare the busy time of the slowest rank, without reductions and without waiting: "
        "what can be measured on a machine that others use too",
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--calibrate", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options)
        return
    machines, measured = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            machines.append(_calibrate(options, Path(folder)))
            measured.append({ranks: _measure(ranks, options, Path(folder)) for ranks in RANKS})
    print(describe_machine())
    print(f"{BRANCHES} branches, {options.batch} structures a step, load {os.getloadavg()[0]:.1f}")
    print("busy time of the slowest rank" if options.cpu_time else "time of a step")
    _report(_fastest(machines), measured, options)


def _work(options: argparse.Namespace) -> None:
    """What a rank does."""
    with distributed_context() as context:
        # Torch comes after MPI.
        from mtlpar.study.calibrate import calibrate
        from mtlpar.study.steps import StepRunner, StepShape, equal_branches, largest

        clock = time.process_time if options.cpu_time else time.perf_counter
        if options.calibrate:
            found = calibrate(
                _base(), model=STUDY.model, atoms=STUDY.atoms, context=context, clock=clock
            )
            if context.rank == 0:
                write_machine(options.worker, found)
            return
        branches = equal_branches(BRANCHES, options.batch)
        runners = {
            layout: StepRunner(
                StepShape(model=STUDY.model, branches=branches, atoms=STUDY.atoms, layout=layout),
                context,
            )
            for layout in LAYOUTS
        }
        times: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
        for _ in range(options.repeats + 1):
            for layout, runner in runners.items():
                times[layout] += largest([runner.run(1, clock=clock)], context)
        held = {
            layout: largest([runner.held_bytes()["parameters"]], context)[0]
            for layout, runner in runners.items()
        }
        edges = largest([r.edges / max(1, r.structures) for r in runners.values()], context)[0]
        if context.rank == 0:
            best = {layout: min(seconds[1:]) for layout, seconds in times.items()}
            write_json(options.worker, {"seconds": best, "parameters": held, "edges": edges})


def _base() -> Machine:
    cores = len(os.sched_getaffinity(0))
    return GENERIC_CPU.model_copy(
        update={"max_nodes": 1, "ranks_per_node": cores, "cores_per_node": cores}
    )


def _calibrate(options: argparse.Namespace, folder: Path) -> Machine:
    path = folder / "machine.yaml"
    _launch(_base().ranks_per_node, ["--worker", str(path), "--calibrate", *_clock(options)])
    return load_machine(str(path))


def _measure(ranks: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    path = folder / f"{ranks}.json"
    sizes = ["--repeats", str(options.repeats), "--batch", str(options.batch)]
    _launch(ranks, ["--worker", str(path), *sizes, *_clock(options)])
    return dict(read_json(path))


def _clock(options: argparse.Namespace) -> list[str]:
    return ["--cpu-time"] if options.cpu_time else []


def _launch(ranks: int, arguments: list[str]) -> None:
    command = launch_command(Geometry(ranks_per_node=ranks), [sys.executable, __file__, *arguments])
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _fastest(machines: list[Machine]) -> Machine:
    """The calibration with the fastest rates for a typical step."""
    census = take_census(STUDY.model)

    def seconds(machine: Machine) -> float:
        return machine.compute_seconds(
            flops=census.flops.coefficients[4] * 1e3,
            memory_bytes=census.memory_bytes.coefficients[4] * 1e3,
            kernels=census.kernels.coefficients[0],
            precision="float32",
        )

    return min(machines, key=seconds)


def _report(
    machine: Machine, measured: list[dict[int, dict[str, Any]]], options: argparse.Namespace
) -> None:
    census = take_census(STUDY.model)
    rows = [
        ("layout", "ranks", "predicted", "measured", "ratio", "parameters", "measured", "ratio")
    ]
    errors = []
    for ranks in RANKS:
        edges = measured[0][ranks]["edges"] / STUDY.atoms
        dataset = Dataset("made_up", 1000, STUDY.atoms, edges_per_atom=edges)
        workload = Workload({f"branch{index}": dataset for index in range(BRANCHES)}, options.batch)
        for layout in LAYOUTS:
            found = predict(layout, machine=machine, census=census, workload=workload, ranks=ranks)
            predicted = found.step.total
            if options.cpu_time:
                turns = max(1.0, ranks / machine.ranks_per_node)
                predicted = (predicted - found.step.exposed) / turns
            seconds = min(results[ranks]["seconds"][layout] for results in measured)
            held = measured[0][ranks]["parameters"][layout]
            ratio = predicted / seconds
            errors.append(abs(ratio - 1))
            rows.append(
                (
                    layout,
                    f"{ranks}{' *' if ranks > machine.ranks_per_node else ''}",
                    duration_text(predicted),
                    duration_text(seconds),
                    f"{ratio:.2f}",
                    size_text(found.memory.parameters),
                    size_text(held),
                    f"{found.memory.parameters / held:.4f}",
                )
            )
    print(json.dumps(machine.model_dump(include=_RATES)))
    print(table_text(rows))
    print("* more ranks than cores")
    within = sum(error <= _TARGET for error in errors)
    print(f"worst error of a predicted step  {max(errors):.0%}  (target <= {_TARGET:.0%})")
    print(f"within the target  {within} of {len(errors)}")


_RATES = {
    "peak_tflops", "memory_gb_per_s", "matmul_efficiency", "memory_efficiency", "kernel_us",
    "intra_node",
}  # fmt: skip


if __name__ == "__main__":
    main()
