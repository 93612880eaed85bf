"""Predicted against measured: step time and memory of every layout of the planner.

    python benchmarks/planner.py

One launch measures rates and steps in alternation: a round of the planner's calibration, a step of
each layout, again and again. Both sides see the same neighbours, and the median of the rounds
counts on both. Five branches of different size make groups differ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import describe_machine

from mtlpar.core.files import format_bytes, read_json, write_json
from mtlpar.core.text_table import aligned
from mtlpar.parallel.launch import Geometry, launch_command
from mtlpar.parallel.ranks import distributed_context
from mtlpar.plan.census import take_census
from mtlpar.plan.machine import GENERIC_CPU, Machine
from mtlpar.plan.predict import PLANS, Plan, layout_of, predict
from mtlpar.plan.text import duration_text
from mtlpar.plan.workload import Dataset, Workload
from mtlpar.study.settings import StudySettings

CORES = len(os.sched_getaffinity(0))
RANKS = tuple(ranks for ranks in (1, 2, 4, 8) if ranks <= CORES)
SHARES = (0.4, 0.25, 0.15, 0.1, 0.1)
STUDY = StudySettings()
_TARGET = 0.15
_HELD = ("parameters", "gradients", "moments")


def main() -> None:
    """Measure, predict, and print both with their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5, help="alternations (default: 5)")
    parser.add_argument("--batch", type=int, default=20, help="global batch (default: 20)")
    parser.add_argument("--width", type=int, default=256, help="of the encoder (default: 256)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options)
        return
    print(describe_machine())
    print(f"{len(SHARES)} branches, {options.batch} structures a step, width {options.width}")
    rows: list[tuple[str, ...]] = [
        (
            "layout",
            "ranks",
            "predicted",
            "measured",
            "ratio",
            "held, predicted",
            "measured",
            "ratio",
        )
    ]
    errors: list[tuple[float, float]] = []
    for ranks in RANKS:
        found = _measure(ranks, options)
        for plan in PLANS if ranks > 1 else PLANS[:1]:
            row, error = _compare(plan, ranks, found, options)
            rows.append(row)
            errors.append(error)
    print(f"load {os.getloadavg()[0]:.1f} on {CORES} cores")
    print("time of a step and memory")
    print(*aligned(rows), sep="\n")
    for what, values in zip(("step", "memory"), zip(*errors, strict=True), strict=True):
        print(f"worst error of a predicted {what}  {max(values):.1%}  (target <= {_TARGET:.0%})")
    within = sum(step <= _TARGET for step, _ in errors)
    print(f"steps within the target  {within} of {len(errors)}")


def _compare(
    plan: Plan, ranks: int, found: dict[str, Any], options: argparse.Namespace
) -> tuple[tuple[str, ...], tuple[float, float]]:
    """A row of the table, and the relative errors of step and memory."""
    prediction = predict(
        plan,
        machine=Machine.model_validate(found["machine"]),
        census=take_census(_model(options)),
        workload=_workload(options, edges_per_atom=found["edges_per_atom"]),
        ranks=ranks,
    )
    predicted = prediction.step.total
    measured = statistics.median(found["seconds"][plan])
    held, predicted_held = found["held"][plan], prediction.memory.held
    row = (
        plan,
        str(ranks),
        duration_text(predicted),
        duration_text(measured),
        f"{predicted / measured:.2f}",
        format_bytes(predicted_held),
        format_bytes(held),
        f"{predicted_held / held:.3f}",
    )
    return row, (abs(predicted / measured - 1), abs(predicted_held / held - 1))


def _work(options: argparse.Namespace) -> None:
    """What a rank does: measure rates and steps in turn."""
    with distributed_context() as context:
        # Torch comes after MPI.
        from mtlpar.study.calibrate import Calibration
        from mtlpar.study.steps import StepRunner, StepShape, largest

        model, ranks = _model(options), context.world_size
        machine = _base(ranks)
        workload = _workload(options, edges_per_atom=1.0)
        sizes = {
            branch: round(workload.structures_per_step(branch)) for branch in workload.branches
        }
        runners = {
            plan: StepRunner(
                StepShape(
                    model=model,
                    branches=sizes,
                    atoms=STUDY.atoms,
                    layout=layout_of(plan, workload, ranks, machine=machine),
                ),
                context,
            )
            for plan in (PLANS if ranks > 1 else PLANS[:1])
        }
        calibration = Calibration(model=model, atoms=STUDY.atoms, context=context)
        seconds: dict[str, list[float]] = {plan: [] for plan in runners}
        for runner in runners.values():
            runner.run(1)
        for _ in range(options.rounds):
            calibration.measure()
            for plan, runner in runners.items():
                seconds[plan] += largest([runner.run(1)], context)
        held = {
            plan: largest([sum(runner.held_bytes()[part] for part in _HELD)], context)[0]
            for plan, runner in runners.items()
        }
        whole = runners["mtl-base"]
        if context.rank == 0:
            found = {
                "machine": calibration.machine(machine).model_dump(mode="json"),
                "seconds": seconds,
                "held": held,
                "edges_per_atom": whole.edges / (whole.structures * STUDY.atoms),
            }
            write_json(options.worker, found)


def _base(ranks: int) -> Machine:
    return GENERIC_CPU.model_copy(update={"max_nodes": 1, "ranks_per_node": ranks})


def _model(options: argparse.Namespace) -> Any:
    encoder = STUDY.model.encoder.model_copy(update={"width": options.width})
    head = STUDY.model.head.model_copy(update={"width": options.width})
    return STUDY.model.model_copy(update={"encoder": encoder, "head": head})


def _workload(options: argparse.Namespace, *, edges_per_atom: float) -> Workload:
    branches = {
        f"branch{index}": Dataset(
            "made_up", 1000 * share, STUDY.atoms, edges_per_atom=edges_per_atom
        )
        for index, share in enumerate(SHARES)
    }
    return Workload(branches, options.batch)


def _measure(ranks: int, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        sizes = ("rounds", "batch", "width")
        arguments = [f"--{name}={getattr(options, name)}" for name in sizes]
        command = launch_command(
            Geometry(ranks_per_node=ranks),
            [sys.executable, __file__, "--worker", str(path), *arguments],
        )
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return dict(read_json(path))


if __name__ == "__main__":
    main()
