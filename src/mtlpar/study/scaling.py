"""Strong and weak scaling, measured on the ranks of one launch."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

import numpy as np

from mtlpar.core.collective import collective
from mtlpar.core.measurements import ScalingRecord
from mtlpar.core.records import write_content
from mtlpar.parallel.agree import gather
from mtlpar.parallel.ranks import RankContext
from mtlpar.study.neighbors import pair_seconds
from mtlpar.study.records import LAYOUTS
from mtlpar.study.settings import StudySettings
from mtlpar.study.steps import (
    StepRunner,
    StepShape,
    are_oversubscribed,
    equal_branches,
    largest,
    shape_of,
)
from mtlpar.study.verdict import COLUMNS

SCALINGS: Final = ("strong", "weak")


@collective
def run(path: Path, *, settings: StudySettings, context: RankContext) -> None:
    """Time epochs of both layouts, for every batch size, and every step of one more epoch.

    Layouts take turns, so that what else the machine does hits both. The epoch is a fixed number of
    steps: strong scaling keeps the global batch, weak scaling the batch of a rank.

    Args:
        path: File to write, on rank 0.
        settings: Model, batch sizes and repeats.
        context: Who this process is.
    """
    study, ranks = settings.scaling, context.world_size
    measured: list[dict[str, Any]] = []
    for batch in study.batch_structures:
        for scaling in SCALINGS if ranks > 1 else SCALINGS[:1]:
            total = batch if scaling == "strong" else batch * ranks
            runners = {
                layout: StepRunner(_shape(layout, total, settings, context), context)
                for layout in LAYOUTS
            }
            times: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
            for runner in runners.values():
                runner.run(1)
            for _ in range(study.repeats):
                for layout, runner in runners.items():
                    times[layout] += largest([runner.run(study.steps)], context)
            # One rank is where both kinds of scaling start.
            for kind in (scaling,) if ranks > 1 else SCALINGS:
                measured += [
                    {"layout": layout, "scaling": kind, "batch": batch, "seconds": times[layout]}
                    for layout in LAYOUTS
                ]
    traces = _traces(settings, context)
    if context.rank == 0:
        write_content(
            path,
            ScalingRecord,
            {
                "ranks": ranks,
                "device": context.device.type,
                "oversubscribed": are_oversubscribed(context),
                "steps": study.steps,
                "branches": study.branches,
                "epochs": measured,
                "traces": traces,
            },
        )


@collective
def _traces(settings: StudySettings, context: RankContext) -> list[dict[str, Any]]:
    """Every step of every rank, with training's own loader: of each layout, the largest batch."""
    study, ranks = settings.scaling, context.world_size
    traces = []
    for layout in LAYOUTS:
        shape = _shape(layout, max(study.batch_structures) * ranks, settings, context)
        runner = StepRunner(shape, context, steps_per_epoch=study.traced_steps)
        runner.run(1)
        rows = gather(runner.trace_epoch())
        columns = np.array(rows).transpose(2, 0, 1).tolist()
        traces.append({"layout": layout, **dict(zip(COLUMNS, columns, strict=True))})
    hosts = gather(socket.gethostname())
    nodes = min(settings.ranks_per_node, ranks)
    pairs = pair_seconds(context, ranks_per_node=nodes)
    return [
        {**trace, "hosts": hosts, "ranks_per_node": nodes, "pair_seconds": pairs}
        for trace in traces
    ]


def _shape(layout: str, batch: int, settings: StudySettings, context: RankContext) -> StepShape:
    branches = equal_branches(settings.scaling.branches, batch)
    return shape_of(layout, branches, settings=settings, context=context)
