"""The encoder in shards: ranks that hold one copy of it together, by PyTorch's FSDP2.

Parameters, gradients and optimizer state of the encoder are spread over consecutive ranks. Each
layer is gathered for its forward and its backward pass, and its gradients are scattered and summed
over the copies; all of that is hooked to the passes, so every rank must compute as many of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from mtlpar.core.collective import collective
from mtlpar.model.multitask import MultiTaskModel


@collective
def shard_encoder(model: MultiTaskModel, mesh: DeviceMesh) -> None:
    """Keep only this rank's shards of the encoder.

    Gradients are summed, not averaged: the objective is a sum over ranks of sums over samples.

    Args:
        model: A finished model; its encoder has the same weights on all ranks.
        mesh: Ranks by copy of the encoder and shard, or by shard alone if there is one copy.
    """
    for part in (*model.encoder.layers, model.encoder):
        sharded = fully_shard(part, mesh=mesh, reshard_after_forward=_drops_weights(model))
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
        sharded.set_reshard_after_backward(_drops_weights(model), recurse=False)


def end_passes(model: MultiTaskModel) -> None:
    """Drop what was gathered: parameters are this rank's shards again, beside their gradients."""
    for part in _sharded_parts(model):
        part.reshard()


@contextmanager
@collective
def whole_encoder(model: MultiTaskModel) -> Iterator[None]:
    """Hold the encoder whole for as long as the block lasts.

    Inside ranks may predict as often as they like, and each another number of times.
    """
    parts = _sharded_parts(model)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    yield
    for part in parts:
        part.set_reshard_after_forward(_drops_weights(model), recurse=False)
        part.reshard()


def held_here(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Of tensors in shards what this rank holds of them, in the same memory; others as they are.

    What is done to each number by itself is done here: for tensors in shards PyTorch would ask how
    the result lies, for every operation and, the first time, for as long as a step takes.
    """
    return [one.to_local() if isinstance(one, DTensor) else one for one in tensors]


@collective
def most_passes(passes: int, device: torch.device) -> int:
    """The largest number of passes of any rank."""
    most = torch.tensor(passes, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def _drops_weights(model: MultiTaskModel) -> bool:
    """Whether a layer's weights are dropped between and after its passes.

    Where forces are gradients the backward pass runs once within the forward pass, and once more
    through both; what the first has dropped the second would miss.
    """
    return not model.is_conservative


def _sharded_parts(model: MultiTaskModel) -> list[FSDPModule]:
    """The encoder first, which FSDP must meet before its layers."""
    return [part for part in model.encoder.modules() if isinstance(part, FSDPModule)]
