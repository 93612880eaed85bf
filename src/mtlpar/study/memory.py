"""Memory of one rank, measured: peak of the process or of the device, and exact bytes."""

from __future__ import annotations

from pathlib import Path

from mtlpar.core.collective import collective
from mtlpar.core.measurements import MemoryRecord
from mtlpar.core.records import write_content
from mtlpar.model.settings import EgnnSettings, HeadSettings, ModelSettings
from mtlpar.parallel.device import peak_memory_bytes, start_peak_bytes
from mtlpar.parallel.ranks import RankContext
from mtlpar.plan.census import parameters_of
from mtlpar.study.records import memory_ranks
from mtlpar.study.settings import StudySettings
from mtlpar.study.steps import StepRunner, equal_branches, largest, require_ranks, shape_of

# Parameter, gradient and two moments.
_NUMBERS_PER_PARAMETER = 4


@collective
def run(
    path: Path, *, layout: str, branches: int, settings: StudySettings, context: RankContext
) -> None:
    """Train a few steps and write the memory of the fullest rank.

    Args:
        path: File to write, on rank 0.
        layout: ``mtl-base``, ``mtl-par``, or ``mtl-par-sharded``, which also spreads the encoder
            over all ranks.
        branches: Number of branches.
        settings: Model and batch.
        context: Who this process is.

    Raises:
        ValueError: If there is another number of ranks than the study takes.
    """
    ranks = memory_ranks(layout, branches)
    require_ranks(context, ranks, f"memory of {layout} with {branches} branches")
    _train(layout, equal_branches(ranks, ranks), _without_weight(settings), context)
    before = start_peak_bytes(context.device)
    batch = settings.memory.batch_structures * ranks
    runner = _train(layout, equal_branches(branches, batch), settings, context)
    peak = peak_memory_bytes(context.device) - before
    held = runner.held_bytes()
    values = largest([peak, *held.values()], context)
    of_encoder, of_branch = parameters_of(settings.model)
    owned = branches if layout == "mtl-base" else 1
    shards = runner.shape.layout.encoder_shards
    formula = of_encoder / shards + owned * of_branch
    record = {
        "layout": layout,
        "branches": branches,
        "ranks": ranks,
        "device": context.device.type,
        "peak_bytes": int(values[0]),
        **{f"{name}_bytes": int(v) for name, v in zip(held, values[1:], strict=True)},
        "encoder_parameters": of_encoder,
        "branch_parameters": of_branch,
        "encoder_shards": shards,
        "formula_bytes": round(formula * _NUMBERS_PER_PARAMETER * 4),
    }
    if context.rank == 0:
        write_content(path, MemoryRecord, record)


@collective
def _train(
    layout: str, branches: dict[str, int], settings: StudySettings, context: RankContext
) -> StepRunner:
    shape = shape_of(layout, branches, settings=settings, context=context)
    runner = StepRunner(shape, context)
    runner.run(settings.memory.steps)
    return runner


def _without_weight(settings: StudySettings) -> StudySettings:
    """The same with a tiny model, to warm up: what libraries allocate once is not the model's."""
    tiny = ModelSettings(
        encoder=EgnnSettings(width=8, layers=1), head=HeadSettings(width=8, layers=1)
    )
    return settings.model_copy(update={"model": tiny})
