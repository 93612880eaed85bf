"""Chooses the layout of a training."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Mapping

import torch

from mtlpar.core.collective import collective
from mtlpar.model.settings import ModelSettings
from mtlpar.parallel.agree import gather
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.ranks import RankContext
from mtlpar.plan.machine import GENERIC_CPU, GENERIC_GPU, Machine, Precision
from mtlpar.plan.recommend import recommend
from mtlpar.plan.workload import Dataset
from mtlpar.store.header import PackHeader
from mtlpar.store.memory import GIB, free_bytes
from mtlpar.train.sampler import EpochPlan
from mtlpar.train.settings import TrainSettings

_PRECISION: Mapping[str, Precision] = {
    "float32": "float32",
    "tf32": "float32",
    "bf16": "bfloat16",
    "float64": "float64",
}


@collective
def choose_layout(
    branches: Mapping[str, tuple[str, ...]],
    headers: Mapping[str, PackHeader],
    plan: EpochPlan,
    *,
    edges_per_atom: Mapping[str, float],
    settings: TrainSettings,
    model_settings: ModelSettings,
    context: RankContext,
) -> ParallelLayout:
    """Lay out branches on ranks, in proportion to the work of what each branch sees in an epoch.

    With ``layout: auto`` the planner's choice is taken, which is the same on all ranks; it shards
    the encoder where that alone makes it fit.

    Args:
        branches: Sources by branch.
        headers: Headers of the sources' packs.
        plan: The steps.
        edges_per_atom: Mean numbers of neighbours, by source.
        settings: How to train.
        model_settings: Architecture.
        context: Who this process is.
    """
    work = {
        branch: _work_of(branch, sources, headers, plan, edges_per_atom)
        for branch, sources in branches.items()
    }
    kind, shards = settings.layout, settings.encoder_shards
    if kind == "auto":
        kind, proposed = recommend(
            model=model_settings,
            branches=work,
            batch_structures=sum(plan.num_samples.values()) / plan.steps,
            world_size=context.world_size,
            machine=_machine(context),
            precision=_PRECISION[settings.precision],
        )
        # What the settings say is meant; one is the default.
        shards = proposed if shards == 1 else shards
    cost = {branch: dataset.work for branch, dataset in work.items()}
    return ParallelLayout.build(
        kind, cost=cost, world_size=context.world_size, encoder_shards=shards
    )


@collective
def _machine(context: RankContext) -> Machine:
    """A generic machine with the memory and the ranks of the nodes at hand; on all ranks alike."""
    generic = GENERIC_CPU if context.device.type == "cpu" else GENERIC_GPU
    everyone = gather((socket.gethostname(), _device_bytes(context.device)))
    ranks_of = Counter(node for node, _ in everyone)
    # The ranks of a node share its memory, but each has a device of its own.
    sharers = ranks_of if context.device.type == "cpu" else Counter()
    memory = min(size / sharers.get(node, 1) for node, size in everyone)
    return generic.model_copy(
        update={
            "max_nodes": max(generic.max_nodes, context.world_size),
            "ranks_per_node": min(ranks_of.values()),
            "device_memory_gib": memory / GIB,
            # Data that do not fit are streamed, whatever the layout.
            "host_memory_gib": math.inf,
        }
    )


def _device_bytes(device: torch.device) -> int:
    """Memory of an accelerator, or what is free of this node's."""
    if device.type == "cpu":
        return free_bytes()
    return int(torch.get_device_module(device).get_device_properties(device).total_memory)


def _work_of(
    branch: str,
    sources: tuple[str, ...],
    headers: Mapping[str, PackHeader],
    plan: EpochPlan,
    edges_per_atom: Mapping[str, float],
) -> Dataset:
    atoms = {
        source: plan.num_samples[source] * headers[source].atoms_per_structure for source in sources
    }
    total = sum(atoms.values())
    samples = sum(plan.num_samples[source] for source in sources)
    return Dataset(
        branch,
        float(samples),
        total / samples,
        edges_per_atom=sum(atoms[source] * edges_per_atom[source] for source in sources) / total,
    )
