"""Predicts memory and time of a step for a layout on a machine. `docs/planning.md` has the model.

All that comes out of here is predicted, and everything that prints it must say so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.reduce import BUCKET_BYTES
from mtlpar.plan.census import BatchShape, ModelCensus
from mtlpar.plan.deal import Part, excess_by_work
from mtlpar.plan.machine import Machine, Precision
from mtlpar.plan.network import Group, all_reduce_seconds, scatter_seconds
from mtlpar.plan.workload import Workload

Plan = Literal["mtl-base", "mtl-par even", "mtl-par", "mtl-par sharded"]
Deal = Literal["work", "count"]
PLANS: Final[tuple[Plan, ...]] = ("mtl-base", "mtl-par even", "mtl-par", "mtl-par sharded")

FloatArray = npt.NDArray[np.float64]

_ITEMSIZE: Final[Mapping[Precision, int]] = {"float64": 8, "float32": 4, "bfloat16": 4}
# The forward pass is a third of a step of products: two of three products are in the backward pass.
_BACKWARD_SHARE: Final = 2 / 3
# Numbers per parameter that pass through memory: AdamW reads parameter, gradient and two moments
# and writes three of them (7); clipping reads a gradient, then reads and writes it (3); a reduction
# copies it into a bucket (2).
UPDATE_NUMBERS: Final = 10
_REDUCE_NUMBERS: Final = 2
# A layer in shards is gathered before its forward and its backward pass; gradients are scattered.
SHARD_MESSAGES: Final = 3
# What AdamW keeps of each parameter.
_MOMENTS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of the fullest rank, and of the store of the fullest node.

    Attributes:
        parameters: Weights.
        gathered: Weights of a sharded encoder that are whole while they work.
        gradients: Gradients.
        copies: Copies of them that are being reduced.
        moments: The optimizer's state.
        activations: Largest sum of what a forward and backward pass keeps, beyond gradients.
        store_per_node: Training data in the memory of a node, one copy per group of owners.
    """

    parameters: float
    gathered: float
    gradients: float
    copies: float
    moments: float
    activations: float
    store_per_node: float

    @property
    def device(self) -> float:
        """Bytes on a rank's device, when it holds most."""
        largest = max(self.gradients + self.copies, self.activations)
        return self.parameters + self.gathered + self.moments + largest

    @property
    def held(self) -> float:
        """Bytes of what a rank holds from step to step."""
        return self.parameters + self.gradients + self.moments


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of one step.

    Attributes:
        compute: Forward and backward pass of the mean rank.
        imbalance: What the slowest rank needs on top; all others wait for it.
        update: Clipping, the optimizer and copies of gradients.
        encoder_reduction: Reduction of the encoder's gradients (sharded: also its gathers).
        branch_reduction: Reduction of the branches' gradients.
        exposed: What of both reductions is not hidden behind the backward pass.
    """

    compute: float
    imbalance: float
    update: float
    encoder_reduction: float
    branch_reduction: float
    exposed: float

    @property
    def total(self) -> float:
        """Seconds from step to step."""
        return self.compute + self.imbalance + self.update + self.exposed


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is predicted for one layout.

    Attributes:
        plan: The layout.
        encoder_shards: Ranks that hold one copy of the encoder together.
        ranks: Number of ranks.
        nodes: Nodes they fill.
        memory: Bytes.
        step: Seconds of a step.
        steps_per_epoch: Steps of an epoch.
        fits: Whether device and host memory suffice.
    """

    plan: Plan
    encoder_shards: int
    ranks: int
    nodes: int
    memory: Memory
    step: StepTime
    steps_per_epoch: int
    fits: bool

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch."""
        return self.steps_per_epoch * self.step.total


def predict(
    plan: Plan,
    *,
    machine: Machine,
    census: ModelCensus,
    workload: Workload,
    ranks: int,
    precision: Precision = "float32",
    deal: Deal = "work",
) -> Forecast:
    """Predict memory and time of a step.

    Args:
        plan: ``mtl-base``: every rank holds all branches; ``mtl-par``: groups in proportion to the
            branches' cost; ``mtl-par even``: equal groups; ``mtl-par sharded``: as ``mtl-par``,
            with the encoder's parameters, gradients and moments sharded over the ranks of a node.
        machine: Rates.
        census: What the model does.
        workload: Branches and global batch.
        ranks: Number of ranks.
        precision: Arithmetic of the products.
        deal: Whether ranks get structures of equal work, as training deals them, or equally many.

    Raises:
        ValueError: If the machine has not as many nodes. A machine of one node may be
            oversubscribed: its ranks then share the devices.
    """
    nodes = machine.nodes(ranks)
    if nodes > machine.max_nodes:
        raise ValueError(
            f"{ranks} ranks need {nodes} nodes, but a job of {machine.description} has at most "
            f"{machine.max_nodes}"
        )
    layout = layout_of(plan, workload, ranks, machine=machine)
    loads = _loads(layout, workload, deal)
    itemsize = _ITEMSIZE[precision]
    sizes = _Sizes.of(layout, census, itemsize)
    step = _step_time(layout, loads, sizes, machine=machine, census=census, precision=precision)
    memory = _memory(layout, loads, sizes, machine=machine, census=census, workload=workload)
    return Forecast(
        plan=plan,
        encoder_shards=layout.encoder_shards,
        ranks=ranks,
        nodes=nodes,
        memory=memory,
        step=step,
        steps_per_epoch=workload.steps_per_epoch,
        fits=memory.device <= machine.device_bytes and memory.store_per_node <= machine.host_bytes,
    )


def layout_of(plan: Plan, workload: Workload, ranks: int, *, machine: Machine) -> ParallelLayout:
    """The layout that training would use."""
    cost = workload.cost()
    if plan == "mtl-base":
        return ParallelLayout.build("mtl-base", cost=cost, world_size=ranks)
    if plan == "mtl-par even":
        cost = dict.fromkeys(cost, 1.0)
    shards = _shards(ranks, machine) if plan == "mtl-par sharded" else 1
    return ParallelLayout.build("mtl-par", cost=cost, world_size=ranks, encoder_shards=shards)


def _shards(ranks: int, machine: Machine) -> int:
    """The most ranks of a node that divide all ranks into such groups, none across nodes."""
    node = machine.ranks_per_node
    return next(
        count
        for count in range(min(node, ranks), 0, -1)
        if ranks % count == 0 and (ranks <= node or node % count == 0)
    )


@dataclass(frozen=True, slots=True)
class _Load:
    """What one kind of rank computes in a step; ranks that hold the same branches are alike."""

    branches: tuple[str, ...]
    count: int
    mean: BatchShape
    largest: BatchShape


def _loads(layout: ParallelLayout, workload: Workload, deal: Deal) -> list[_Load]:
    # Whoever owns a branch of a rank owns the rank's others too.
    kinds: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for branch, owners in layout.owners.items():
        kinds[owners].append(branch)
    differing = len(kinds) if deal == "work" else layout.world_size
    return [
        _load(tuple(branches), len(owners), layout, workload, deal=deal, differing=differing)
        for owners, branches in kinds.items()
    ]


def _load(
    branches: tuple[str, ...],
    count: int,
    layout: ParallelLayout,
    workload: Workload,
    *,
    deal: Deal,
    differing: int,
) -> _Load:
    """Mean and largest batch of the ranks that hold these branches.

    Dealt by work, ranks differ by what the deal leaves, and groups of ranks in the atoms that the
    step brings their branches. Dealt by count, the last rank gets the larger whole number of each
    dataset, and all batches differ in atoms. Of n normal deviates the largest is sqrt(2 ln n)
    deviations up.

    Args:
        branches: What the ranks hold.
        count: How many hold just these.
        layout: Who owns which branch.
        workload: Branches and global batch.
        deal: See `predict`.
        differing: n: groups of ranks, or ranks, whose batches differ in atoms.
    """
    datasets = [workload.branches[branch] for branch in branches]
    owners = np.array([len(layout.owners[branch]) for branch in branches])
    share = np.array([workload.structures_per_step(branch) for branch in branches]) / owners
    atoms, edges, variation = (
        np.array([getattr(dataset, name) for dataset in datasets])
        for name in ("atoms_per_structure", "edges_per_structure", "atoms_variation")
    )
    sizes = np.stack([np.ones_like(share), atoms, edges])
    mean = sizes @ share
    if deal == "work":
        # Several owners of one of a rank's branches are those of all of them.
        parts = tuple(
            Part(part, dataset.work_per_structure, dataset.atoms_variation)
            for part, dataset in zip(share.tolist(), datasets, strict=True)
        )
        largest = mean * (1 + excess_by_work(parts, int(owners.min())))
        # What owners share evenly deviates less than what each of them gets by itself.
        sharers = owners
    else:
        largest = sizes @ np.where(owners > 1, np.ceil(share - 1e-9), share)
        sharers = np.ones_like(owners)
    variance = float((share * (atoms * variation) ** 2 / sharers).sum())
    deviations = math.sqrt(2 * math.log(differing))
    factor = 1 + deviations * math.sqrt(variance) / mean[1] if mean[1] else 1.0
    largest[1:] *= factor
    active = float(len(branches))
    return _Load(
        branches,
        count,
        BatchShape(active, *mean.tolist()),
        BatchShape(active, *largest.tolist()),
    )


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of the parts of the model.

    Attributes:
        encoder: Of the whole encoder.
        branch: Of one branch.
        layer: Of a layer of the encoder.
        shards: Ranks that share one copy of the encoder.
        itemsize: Bytes of a number.
    """

    encoder: float
    branch: float
    layer: float
    shards: int
    itemsize: int

    @classmethod
    def of(cls, layout: ParallelLayout, census: ModelCensus, itemsize: int) -> _Sizes:
        encoder = float(census.encoder_parameters * itemsize)
        branch = float(census.branch_parameters * itemsize)
        return cls(encoder, branch, encoder / census.layers, layout.encoder_shards, itemsize)

    def held(self, branches: int) -> float:
        """Parameters of a rank with so many branches."""
        return self.encoder / self.shards + branches * self.branch


def _step_time(
    layout: ParallelLayout,
    loads: list[_Load],
    sizes: _Sizes,
    *,
    machine: Machine,
    census: ModelCensus,
    precision: Precision,
) -> StepTime:
    def compute(shape: BatchShape) -> float:
        return machine.compute_seconds(
            flops=census.flops.of(shape),
            memory_bytes=census.memory_bytes.of(shape),
            kernels=census.kernels.of(shape),
            precision=precision,
        )

    ranks = layout.world_size
    turns = max(1.0, machine.ranks_of_node(ranks) / machine.ranks_per_node)
    mean = sum(load.count * compute(load.mean) for load in loads) / ranks * turns
    slowest = max(mean, *(compute(load.largest) for load in loads), 0.0)
    most = max(len(load.branches) for load in loads)
    numbers = UPDATE_NUMBERS + (_REDUCE_NUMBERS if ranks > 1 else 0)
    update = machine.traffic_seconds(sizes.held(most) * numbers) * turns
    world = Group.of(ranks, machine)
    encoder = _encoder_reduction(world, sizes, machine)
    branch = max(
        sum(
            all_reduce_seconds(Group.of(len(layout.owners[name]), machine), sizes.branch, machine)
            for name in load.branches
            if len(layout.owners[name]) > 1
        )
        for load in loads
    )
    sent = (encoder + branch) * turns
    return StepTime(
        compute=mean,
        imbalance=slowest - mean,
        update=update,
        encoder_reduction=encoder * turns,
        branch_reduction=branch * turns,
        exposed=_exposed(sent, mean, sizes.held(most), machine.overlap),
    )


def _encoder_reduction(world: Group, sizes: _Sizes, machine: Machine) -> float:
    if sizes.shards == 1:
        return all_reduce_seconds(world, sizes.encoder, machine) if world != Group(1, 1) else 0.0
    layers, link = sizes.encoder / sizes.layer, machine.shards or machine.intra_node
    sharers = Group(1, sizes.shards)
    inside = SHARD_MESSAGES * layers * scatter_seconds(sharers, sizes.layer, link)
    # Ranks that hold the same shard sum it last.
    holders = Group(world.nodes, world.ranks // sizes.shards)
    return inside + all_reduce_seconds(holders, sizes.encoder / sizes.shards, machine)


def _exposed(sent: float, compute: float, size_bytes: float, overlap: float) -> float:
    """What of the reductions is left when the backward pass ends.

    Bucket k of K is complete after k / K of the backward pass, and buckets go one after another.
    """
    buckets = max(1, math.ceil(size_bytes / BUCKET_BYTES))
    backward = _BACKWARD_SHARE * compute
    done = 0.0
    for bucket in range(1, buckets + 1):
        done = max(done, backward * bucket / buckets) + sent / buckets
    return overlap * (done - backward) + (1 - overlap) * sent


def _memory(
    layout: ParallelLayout,
    loads: list[_Load],
    sizes: _Sizes,
    *,
    machine: Machine,
    census: ModelCensus,
    workload: Workload,
) -> Memory:
    most = max(len(load.branches) for load in loads)
    parameters = sizes.held(most)
    # While one layer of a sharded encoder works it is whole, and the next is on its way. Where
    # forces are gradients all layers stay whole until the second backward pass.
    whole = sizes.encoder if census.is_conservative else 2 * sizes.layer
    largest = max(census.activation_bytes.of(load.largest) for load in loads)
    return Memory(
        parameters=parameters,
        gathered=whole if sizes.shards > 1 else 0.0,
        gradients=parameters,
        copies=parameters if layout.world_size > 1 else 0.0,
        moments=_MOMENTS * parameters,
        activations=largest,
        store_per_node=_store_per_node(layout, machine, workload),
    )


def _store_per_node(layout: ParallelLayout, machine: Machine, workload: Workload) -> float:
    """Training data in the memory of the fullest node: owners share one copy of a dataset."""
    per_rank: dict[tuple[int, ...], float] = defaultdict(float)
    for branch, owners in layout.owners.items():
        per_rank[owners] += workload.branches[branch].pack_bytes / len(owners)
    nodes = np.concatenate(list(per_rank)) // machine.ranks_of_node(layout.world_size)
    sizes = np.repeat(list(per_rank.values()), [len(owners) for owners in per_rank])
    return float(np.bincount(nodes, sizes).max())
