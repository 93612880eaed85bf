"""Counts what a training step does, by running the model on tensors without data.

The model runs forward and backward on PyTorch's fake tensors for a few made-up batches.
Every operation is seen on its way: its floating-point operations, the bytes it reads and writes,
and the storage that is alive. Nothing is computed, so a count takes the same time whatever the size
of the model, and it follows the model: no formula has to be kept in step with the code.

All counts follow the batch as

    count = c_0 + c_1 * branches + c_2 * S + c_3 * A + c_4 * E + c_5 * branches * A,

the last because each branch gives back a gradient for all atoms. The coefficients are fitted to a
few small batches. Messages are computed in blocks of edges and those of the batches are whole:
there counts lie on the formula, and in between a little above it.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mtlpar.graph.collate import collate
from mtlpar.model.multitask import MultiTaskModel, Segment, parameter_counts
from mtlpar.model.settings import ModelSettings
from mtlpar.plan.synthetic import make_structures

# Products of matrices below this many operations per byte are bound by memory on every machine
# that we know: about 15 on a GPU in float32, 5 to 10 on a core of a CPU.
_COMPUTE_BOUND_FLOP_PER_BYTE: Final = 20.0

# These touch as many rows of their first argument as their second has indices, not all of it: they
# read them, or read and write them.
_PICK_ROWS: Final = {
    torch.ops.aten.index_select, torch.ops.aten.embedding,
    torch.ops.aten._embedding_bag_forward_only,
}  # fmt: skip
_ADD_ROWS: Final = {torch.ops.aten.index_add_}


@dataclass(frozen=True, slots=True)
class BatchShape:
    """Size of one rank's batch.

    Attributes:
        branches: Branches that have structures in it.
        structures: S.
        atoms: A.
        edges: E, directed.
    """

    branches: float
    structures: float
    atoms: float
    edges: float

    def row(self) -> tuple[float, ...]:
        """What the coefficients of a count are multiplied with."""
        return (
            1.0, self.branches, self.structures, self.atoms, self.edges, self.branches * self.atoms,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Count:
    """One quantity as a function of the batch; see the module's formula."""

    coefficients: tuple[float, ...]

    def of(self, shape: BatchShape) -> float:
        """The quantity for a batch; not below zero for one too small for the formula."""
        return max(0.0, sum(c * x for c, x in zip(self.coefficients, shape.row(), strict=True)))


@dataclass(frozen=True, slots=True)
class ModelCensus:
    """What one forward and backward pass of a model takes.

    Attributes:
        flops: Floating-point operations of products that are bound by arithmetic.
        memory_bytes: Bytes read and written by everything else.
        kernels: Operations started.
        activation_bytes: Largest sum of what is alive at once, without parameters.
        encoder_parameters: Ps, parameters of the encoder.
        branch_parameters: Ph, parameters of a branch.
        layers: Layers of the encoder.
        is_conservative: Whether forces are gradients.
    """

    flops: Count
    memory_bytes: Count
    kernels: Count
    activation_bytes: Count
    encoder_parameters: int
    branch_parameters: int
    layers: int
    is_conservative: bool = False


@dataclass(slots=True)
class StepCounts:
    """The same quantities for one batch."""

    flops: float = 0.0
    memory_bytes: float = 0.0
    kernels: float = 0.0
    activation_bytes: float = 0.0


def parameters_of(settings: ModelSettings) -> tuple[int, int]:
    """Ps and Ph: parameters of the encoder and of a branch.

    Args:
        settings: Architecture.
    """
    sizes = parameter_counts(_DummyModel(settings).model)
    return sizes["encoder"], sizes["first"]


@cache
def take_census(settings: ModelSettings) -> ModelCensus:
    """Count the work of a training step in float32.

    Args:
        settings: Architecture.
    """
    dummy = _DummyModel(settings)
    sizes = parameter_counts(dummy.model)
    probes = [
        # branches, structures, atoms of each, blocks of edges
        (1, 60, 15, 1), (2, 60, 15, 1), (1, 240, 15, 1), (1, 60, 40, 1), (1, 60, 15, 3),
        (2, 60, 40, 2), (2, 120, 25, 2),
    ]  # fmt: skip
    shapes, counted = zip(*(dummy.count(*probe) for probe in probes), strict=True)
    rows = np.array([shape.row() for shape in shapes])

    def solve(quantity: str) -> Count:
        values = np.array([getattr(counts, quantity) for counts in counted])
        # Relative errors count, and columns of like size keep the digits.
        columns = np.abs(rows).max(axis=0)
        weights = 1 / np.maximum(values, 1.0)
        system = rows / columns * weights[:, None]
        solution = np.linalg.lstsq(system, values * weights, rcond=None)[0] / columns
        return Count(tuple(solution.tolist()))

    return ModelCensus(
        **{field.name: solve(field.name) for field in fields(StepCounts)},
        encoder_parameters=sizes["encoder"],
        branch_parameters=sizes["first"],
        layers=settings.encoder.layers,
        is_conservative=dummy.model.is_conservative,
    )


class _DummyModel:
    """The model without data: tensors that have sizes and a device, but no numbers."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self._mode = FakeTensorMode()
        with self._mode:
            self.model = MultiTaskModel(settings, ("first", "second"), seed=0)

    def count(
        self, branches: int, structures: int, atoms: int, blocks: int
    ) -> tuple[BatchShape, StepCounts]:
        """Run one step for a made-up batch with its first blocks of edges, and count."""
        batch = collate(make_structures(structures, atoms=atoms, seed=0), self.settings.graph)
        edges = blocks * self.model.encoder.edges_at_once
        batch = replace(
            batch, edge_index=batch.edge_index[:, :edges], edge_shift=batch.edge_shift[:edges]
        )
        bounds = [index * structures // branches for index in range(branches + 1)]
        segments = [
            # Tensors without numbers cannot be asked where branches begin and end.
            Segment(name, first, last, (first * atoms, last * atoms))
            for name, first, last in zip(self.model.heads, bounds[:-1], bounds[1:], strict=False)
        ]
        shape = BatchShape(branches, structures, structures * atoms, batch.num_edges)
        batch = batch.apply(self._mode.from_tensor)
        with self._mode, _Counter(known=self.model.parameters()) as counter:
            prediction = self.model(batch, segments)
            loss = prediction.energy_per_atom.abs().sum() + prediction.forces.abs().sum()
            del prediction
            loss.backward()
        self.model.zero_grad(set_to_none=True)
        return shape, counter.counts


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation: its arithmetic, its traffic, and the storage that is alive."""

    def __init__(self, known: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = StepCounts()
        self._alive_bytes = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.prim.device.default:
            # More than half of all calls, which the tensors without numbers answer slowly.
            return args[0].fake_device
        result = func(*args, **(kwargs or {}))
        outputs = _tensors(result)
        if func.is_view or not outputs:
            return result
        traffic = _traffic_bytes(func.overloadpacket, _tensors(args), outputs)
        formula = flop_registry.get(func.overloadpacket)
        flops = formula(*args, **(kwargs or {}), out_val=result) if formula else 0
        self.counts.kernels += 1
        if flops > _COMPUTE_BOUND_FLOP_PER_BYTE * traffic:
            self.counts.flops += flops
        else:
            self.counts.memory_bytes += traffic
        for tensor in outputs:
            self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self._alive_bytes += size
        self.counts.activation_bytes = max(self.counts.activation_bytes, self._alive_bytes)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self._alive_bytes -= size


def _traffic_bytes(operation: Any, arguments: list[Tensor], outputs: list[Tensor]) -> int:
    """Bytes that an operation reads and writes."""
    read, written = ([t.numel() * t.element_size() for t in side] for side in (arguments, outputs))
    if operation in _PICK_ROWS | _ADD_ROWS:
        table, indices = arguments[:2]
        rows = indices.numel() * table.element_size() * table[:1].numel()
        return rows + sum(read[1:]) + (rows if operation in _ADD_ROWS else sum(written))
    return sum(read) + sum(written)


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
