"""Chooses the layout of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtlpar.model.settings import ModelSettings
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.ranks import RankContext
from mtlpar.plan.machine import GENERIC_CPU, GENERIC_GPU, Precision
from mtlpar.plan.recommend import recommend
from mtlpar.plan.workload import Dataset
from mtlpar.train.sampler import EpochPlan
from mtlpar.train.settings import TrainSettings

_PRECISION: Mapping[str, Precision] = {
    "float32": "float32",
    "tf32": "float32",
    "bf16": "bfloat16",
    "float64": "float64",
}


def choose_layout(
    branches: Mapping[str, tuple[str, ...]],
    headers: Mapping[str, Mapping[str, Any]],
    plan: EpochPlan,
    *,
    settings: TrainSettings,
    model_settings: ModelSettings,
    context: RankContext,
) -> ParallelLayout:
    """Lay out branches on ranks, in proportion to the atoms that each branch sees in an epoch.

    With ``layout: auto`` the planner's choice is taken, which is the same on all ranks.

    Args:
        branches: Sources by branch.
        headers: Headers of the sources' packs.
        plan: The steps.
        settings: How to train.
        model_settings: Architecture.
        context: Who this process is.
    """
    work = {
        branch: _work_of(branch, [headers[source] for source in sources], sources, plan)
        for branch, sources in branches.items()
    }
    kind = settings.layout
    if kind == "auto":
        kind = recommend(
            model=model_settings,
            branches=work,
            batch_structures=sum(plan.num_samples.values()) / plan.steps,
            world_size=context.world_size,
            machine=GENERIC_CPU if context.device.type == "cpu" else GENERIC_GPU,
            precision=_PRECISION[settings.precision],
        )
    cost = {
        branch: dataset.structures * dataset.atoms_per_structure for branch, dataset in work.items()
    }
    return ParallelLayout.build(
        kind, cost=cost, world_size=context.world_size, encoder_shards=settings.encoder_shards
    )


def _work_of(
    branch: str,
    headers: list[Mapping[str, Any]],
    sources: tuple[str, ...],
    plan: EpochPlan,
) -> Dataset:
    samples = [plan.num_samples[source] for source in sources]
    atoms = sum(
        count * header["num_atoms"] / header["num_structures"]
        for count, header in zip(samples, headers, strict=True)
    )
    return Dataset(branch, float(sum(samples)), atoms / sum(samples))
