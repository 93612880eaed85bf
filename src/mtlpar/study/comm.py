"""Where the time of a step goes on every rank, from the profiler."""

from __future__ import annotations

from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from mtlpar.core.collective import collective
from mtlpar.core.measurements import CommRecord
from mtlpar.core.records import write_content
from mtlpar.parallel.agree import gather
from mtlpar.parallel.ranks import RankContext
from mtlpar.study.settings import StudySettings
from mtlpar.study.steps import StepRunner, are_oversubscribed, require_ranks, shape_of
from mtlpar.study.timeline import break_down, spans_of, steps_of


@collective
def run(path: Path, *, layout: str, settings: StudySettings, context: RankContext) -> None:
    """Profile an epoch of made-up structures and write where its time went.

    Args:
        path: File to write, on rank 0.
        layout: ``mtl-base``, ``mtl-par``, or ``mtl-par-sharded``, which also spreads the encoder
            over all ranks.
        settings: Model, batch and number of steps.
        context: Who this process is.

    Raises:
        ValueError: If there is another number of ranks than the study takes.
    """
    study = settings.comm
    require_ranks(context, study.ranks, "the time of a step", ", or set study.comm.ranks")
    branches = {f"branch{index}": size for index, size in enumerate(study.batch_structures)}
    shape = shape_of(layout, branches, settings=settings, context=context)
    runner = StepRunner(shape, context, steps_per_epoch=study.steps)
    runner.run(1)
    with profile(activities=_activities(context), acc_events=True) as trace:
        runner.run_epoch()
    everyone = gather(steps_of(spans_of(trace)))
    if context.rank == 0:
        write_content(
            path,
            CommRecord,
            {
                "layout": layout,
                "device": context.device.type,
                "steps": study.steps,
                "batch_structures": study.batch_structures,
                "branches": [shape.layout.branches_of(rank) for rank in range(len(everyone))],
                "oversubscribed": are_oversubscribed(context),
                "ranks": break_down(everyone),
            },
        )


def _activities(context: RankContext) -> list[ProfilerActivity]:
    kinds = {"cuda": [ProfilerActivity.CUDA], "xpu": [ProfilerActivity.XPU], "cpu": []}
    return [ProfilerActivity.CPU, *kinds[context.device.type]]
